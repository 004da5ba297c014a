"""The backend that an app has in a test, and the end of the app."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_background import Status
from flask_background.testing import apps, perform, record_items, run_items, stopping_apps, use_backend

from ..helpers import BOUND, Site, our_threads, until


def test_use_backend(site: Site, make_site: Callable[..., Site]) -> None:
    """The block's backend takes all items, and afterwards the app's own does."""
    site = make_site()
    task = site.background.task(threading.get_ident)
    with use_backend(site.app, "manual"):
        item = task.enqueue()
        assert item.status is Status.QUEUED
        with use_backend(site.app, "immediate"):
            assert task.enqueue().result(0) == threading.get_ident()
        assert task.enqueue().status is Status.QUEUED
    assert item.status is Status.CANCELLED
    assert task.enqueue().result(BOUND) != threading.get_ident()


@pytest.mark.parametrize(
    "backend", ["local", pytest.param("durable", marks=pytest.mark.process), "immediate", "manual"]
)
def test_nothing_is_left(make_site: Callable[..., Site], tmp_path: Path, backend: str) -> None:
    """Threads and descriptors are gone when the block ends, and the app works again in another one."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")

    def work() -> int:
        return 42

    async def coroutine() -> int:
        return 42

    durable = backend == "durable"
    tasks = [
        site.background.task(durable=durable, timeout=60)(work),
        site.background.task(durable=durable, timeout=60)(coroutine),
    ]
    for _ in range(2):
        before, descriptors = set(our_threads()), set(os.listdir("/proc/self/fd"))
        with use_backend(site.app, "local" if durable else backend):  # type: ignore[arg-type]
            items = [task.enqueue() for task in tasks]
            items[0].token.on_cancel(lambda: None)
            items += [tasks[0].using(delay=60).enqueue()]
            if backend == "manual":
                run_items()
            assert [item.result(BOUND) for item in items[:2]] == [42, 42]
        assert set(our_threads()) <= before
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors)


def test_unfinished_items(
    make_site: Callable[..., Site], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that does not end is named."""
    monkeypatch.setattr(apps, "_GRACE", 0.05)
    site = make_site()
    task = site.background.task(name="stuck")(gate.wait)
    block = use_backend(site.app, "local")
    block.__enter__()
    item = task.enqueue(BOUND)
    until(lambda: item.status is Status.RUNNING)
    with pytest.raises(AssertionError, match=r"items that have not ended: <WorkItem \w+ stuck interrupted>"):
        block.__exit__(None, None, None)
    gate.set()
    assert item.wait(BOUND)
    until(lambda: not [thread for thread in our_threads() if "thread" in thread.name])


def test_stopping_apps(make_site: Callable[..., Site]) -> None:
    """Apps that are first used in the block are stopped at its end; others go on."""
    before, within = make_site("before"), make_site("within")
    tasks: list[Any] = [site.background.task(threading.get_ident) for site in (before, within)]
    kept = tasks[0].using(delay=60).enqueue()
    with stopping_apps():
        delayed = [task.using(delay=60).enqueue() for task in tasks]
    assert [item.status for item in (kept, *delayed)] == [
        Status.QUEUED,
        Status.QUEUED,
        Status.INTERRUPTED,
    ]


def test_perform_leaves_the_journal_alone(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A durable task is performed without a journal."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    task = site.background.task(durable=True)(lambda value: [value])
    with record_items(site.app):
        assert perform(task, 1) == [1]
    assert not (tmp_path / "journal").exists()


def test_app_without_a_background() -> None:
    """An app that has no Background is told what it lacks."""
    with pytest.raises(RuntimeError, match=r"app 'bare' has no Background: call background\.init_app"):
        record_items(Flask("bare")).__enter__()
