"""The wait for a web server that serves: which apps are told, when, and in which process."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from flask_background.hosts import server_start, web_servers
from flask_background.hosts.server_start import tell_when_serving

from ..helpers import until


class Starter:
    """An app that waits to be told."""

    def __init__(self) -> None:
        self.told = 0

    def server_started(self) -> None:
        """Count."""
        self.told += 1


@pytest.fixture
def serves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """The process of waitress's command, which serves when this is called."""
    monkeypatch.setattr(sys, "argv", ["/venv/bin/waitress-serve"])
    monkeypatch.setattr(server_start, "_loads", weakref.WeakKeyDictionary())
    monkeypatch.setattr(server_start, "_had_app", False)
    monkeypatch.setattr(server_start, "_LOOK", 0.01)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(os, "listdir", lambda path: [str(sock.fileno())])
        yield sock.listen
        server_start._loads.clear()
        until(lambda: not server_start._waits)


def load(*starters: Starter, serves: bool = False) -> None:
    """Load apps on a thread, whose code has returned then."""

    def make() -> None:
        for starter in starters:
            tell_when_serving(starter, serves=serves)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()


def test_told_once(serves: Callable[[], object]) -> None:
    """Each app is told once, when the server listens, and the thread ends."""
    apps = [Starter(), Starter()]
    load(*apps)
    time.sleep(0.05)
    assert [app.told for app in apps] == [0, 0]
    serves()
    until(lambda: not server_start._waits)
    until(lambda: [app.told for app in apps] == [1, 1])


def test_not_before_it_is_loaded(serves: Callable[[], object]) -> None:
    """The code that makes an app has more to do; the server may have got its socket from its parent."""
    serves()
    app, loaded, entered = Starter(), threading.Event(), threading.Event()

    def create_app() -> None:
        tell_when_serving(app, serves=False)
        entered.set()
        loaded.wait(10)

    thread = threading.Thread(target=create_app)
    thread.start()
    entered.wait(10)
    time.sleep(0.1)
    assert app.told == 0
    loaded.set()
    until(lambda: app.told == 1)
    thread.join()


def test_number_of_the_thread_is_used_again(serves: Callable[[], object]) -> None:
    """An app whose thread has ended is loaded, whatever a later thread of the same number does."""
    app, gate = Starter(), threading.Event()
    load(app)
    ident = server_start._loads[app]._thread
    others = [threading.Thread(target=gate.wait) for _ in range(20)]
    for other in others:
        other.start()
    try:
        assert ident in [other.ident for other in others]
        serves()
        until(lambda: app.told == 1)
    finally:
        gate.set()
        for other in others:
            other.join()


def test_app_may_go(serves: Callable[[], object]) -> None:
    """An app that was thrown away is neither kept nor told, and its thread ends."""
    app = Starter()
    reference = weakref.ref(app)
    load(app)
    del app
    gc.collect()
    until(lambda: not server_start._waits)
    assert reference() is None


def test_later_app(serves: Callable[[], object]) -> None:
    """An app that is made when the server serves already is told as well."""
    serves()
    for _ in range(2):
        app = Starter()
        load(app)
        until(lambda app=app: app.told == 1)  # type: ignore[misc]
        until(lambda: not server_start._waits)


def test_wait_is_given_up(serves: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never serves has no thread for ever."""
    monkeypatch.setattr(server_start, "_GIVE_UP", 0.05)
    app = Starter()
    load(app)
    until(lambda: not server_start._waits)
    serves()
    assert app.told == 0


@pytest.mark.parametrize("known", [True, False])
def test_other_process(serves: Callable[[], object], monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """A process of another command starts no thread, unless the caller knows that it will serve."""
    monkeypatch.setattr(sys, "argv", ["/srv/script.py"])
    serves()
    app = Starter()
    load(app, serves=known)
    assert server_start._waits is known
    if known:
        until(lambda: app.told == 1)


def test_copy_of_a_process(serves: Callable[[], object]) -> None:
    """A fork of a process that has had an app inherits the command and the socket, and serves nothing."""
    app = Starter()
    load(app)
    serves()
    until(lambda: app.told == 1)
    pid = os.fork()
    if pid == 0:
        load(Starter())
        os._exit(server_start._waits)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("worker", [0, 1])
def test_uwsgi_forks(serves: Callable[[], object], monkeypatch: pytest.MonkeyPatch, worker: int) -> None:
    """uWSGI's master waits for nothing, its workers do, and the hook that the app has set is called."""
    hooked: list[str] = []
    ids = [0]
    uwsgi = SimpleNamespace(worker_id=lambda: ids[0], opt={}, post_fork_hook=lambda: hooked.append("app's"))
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    monkeypatch.setattr(web_servers, "is_of_server", lambda: False)
    serves()
    app = Starter()
    load(app)
    assert not server_start._waits
    ids[0] = worker  # after the fork
    uwsgi.post_fork_hook()
    assert hooked == ["app's"]
    if worker:
        until(lambda: app.told == 1)
    else:
        assert not server_start._waits  # a mule, or the spooler
