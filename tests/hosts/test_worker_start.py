"""When a gunicorn worker has started, whoever wants to know is told; with workers that are not real."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flask_background.hosts import worker_start as starting
from flask_background.hosts.worker_start import tell_when_started


class Config:
    """gunicorn's configuration, as far as it goes."""

    workers = 2

    def __init__(self, log: list[str]) -> None:
        self.post_worker_init: Callable[[Any], object] = lambda worker: log.append("user's")

    def set(self, name: str, value: Any) -> None:
        """As gunicorn does."""
        assert name == "post_worker_init"
        setattr(self, name, value)


class Worker:
    """A worker that starts when told to."""

    def __init__(self, log: list[str]) -> None:
        self.cfg = Config(log)
        self.age = 2

    def start(self) -> None:
        """Start as gunicorn's worker does when the app is loaded."""
        self.cfg.post_worker_init(self)


class Starter:
    """Somebody who wants to be told."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log = log
        self._name = name

    def worker_started(self, *, follows: bool) -> None:
        """It has started."""
        self._log.append(f"{self._name}, the next" if follows else self._name)


def no_host() -> None:
    """The host of a process that has had no item."""


@pytest.fixture
def log() -> list[str]:
    """The names of those who were told, in order."""
    return []


@pytest.fixture
def worker(log: list[str], monkeypatch: pytest.MonkeyPatch) -> Worker:
    """The worker that this process is."""
    worker = Worker(log)
    monkeypatch.setattr(starting, "_starters", weakref.WeakSet())
    monkeypatch.setattr(starting, "find_worker", lambda: worker)
    monkeypatch.setattr(starting, "worker_on_stack", lambda: worker)
    return worker


def test_told(worker: Worker, log: list[str]) -> None:
    """The user's own hook comes first, then each starter, once."""
    first, second = Starter(log, "first"), Starter(log, "second")
    for starter in (first, second, first):
        tell_when_started(starter, no_host)
    assert log == []
    worker.start()
    assert log[0] == "user's"
    assert sorted(log[1:]) == ["first", "second"]


def test_follows_another(worker: Worker, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter learns that its worker replaces another one, of this master or of one before it (USR2)."""
    starter = Starter(log, "first")
    tell_when_started(starter, no_host)
    worker.start()
    worker.age = 3
    worker.start()
    worker.age = 1
    monkeypatch.setenv("GUNICORN_PID", "1")
    worker.start()
    assert log == ["user's", "first"] + ["user's", "first, the next"] * 2


def test_nobody_wants_to_know(worker: Worker, log: list[str]) -> None:
    """Without a starter the worker's configuration stays as it is."""
    users = worker.cfg.post_worker_init
    starting._after_fork()
    assert worker.cfg.post_worker_init is users
    worker.start()
    assert log == ["user's"]


def test_starters_may_go(worker: Worker, log: list[str]) -> None:
    """An app that is gone by then is not kept alive, and not told."""
    starter, stays = Starter(log, "gone"), Starter(log, "stays")
    tell_when_started(starter, no_host)
    tell_when_started(stays, no_host)
    reference = weakref.ref(starter)
    del starter
    gc.collect()
    assert reference() is None
    worker.start()
    assert log == ["user's", "stays"]


def test_outside_gunicorn(monkeypatch: pytest.MonkeyPatch, worker: Worker, log: list[str]) -> None:
    """In any other process nothing happens, and after its fork neither."""
    monkeypatch.setattr(starting, "find_worker", lambda: None)
    monkeypatch.setattr(starting, "worker_on_stack", lambda: None)
    starter = Starter(log, "told")
    tell_when_started(starter, no_host)
    starting._after_fork()
    assert log == []
    worker.start()
    assert log == ["user's"]


def test_preloaded(monkeypatch: pytest.MonkeyPatch, worker: Worker, log: list[str]) -> None:
    """An app that the master has loaded is told in each worker, whose configuration is its own."""
    monkeypatch.setattr(starting, "find_worker", lambda: None)
    starter = Starter(log, "told")
    tell_when_started(starter, no_host)
    for number in (1, 2):
        child = Worker(log)
        monkeypatch.setattr(starting, "worker_on_stack", lambda child=child: child)
        starting._after_fork()
        child.start()
        assert log == ["user's", "told"] * number
    worker.start()  # the master's
    assert log == ["user's", "told"] * 2 + ["user's"]


def test_fork(monkeypatch: pytest.MonkeyPatch, worker: Worker, log: list[str]) -> None:
    """The fork itself does that."""
    monkeypatch.setattr(starting, "find_worker", lambda: None)
    starter = Starter(log, "told")
    tell_when_started(starter, no_host)
    pid = os.fork()
    if pid == 0:
        worker.start()
        os._exit(log != ["user's", "told"])
    assert os.waitpid(pid, 0)[1] == 0
    worker.start()
    assert log == ["user's"]


def test_outside_of_gunicorn_really(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is no worker, and an app in it waits for nobody."""
    monkeypatch.setattr(starting, "_starters", weakref.WeakSet())
    told: list[str] = []
    starter = Starter(told, "told")
    tell_when_started(starter, no_host)
    assert list(starting._starters) == [starter]
    assert told == []
