"""INT and QUIT in a worker: which of them gunicorn's handler gets, and which end the wait for items."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.hosts import gunicorn_signals
from flask_background.hosts.gunicorn import GunicornHost

from ..helpers import until

pytestmark = pytest.mark.process


class Worker:
    """Has a handler, as gunicorn's worker does."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.raises = False
        self.pool: ThreadPoolExecutor | None = None

    def handle_quit(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal."""
        self.heard.append(number)
        if self.pool is not None:
            self.pool.shutdown(wait=False)
        if self.raises:
            raise SystemExit


class Host(GunicornHost):
    """A host whose items are what the test says."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.idle = False
        self.at_look: list[signal.Signals] = []
        self.was_cut = False
        self._pressed = {}
        self._quits = False
        self._began = None
        self._arrived = False

    def is_idle(self) -> bool:
        """As told; a handler asks this first, and another signal may come then."""
        while self.at_look:
            signal.raise_signal(self.at_look.pop())
        return self.idle

    def cut(self) -> None:
        """Remember it."""
        self.was_cut = True


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that has set its handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)}
    worker = Worker()
    for number in before:
        signal.signal(number, worker.handle_quit)
    yield worker
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def host(worker: Worker) -> Host:
    """The host of a worker with items, which hears its signals."""
    host = Host()
    gunicorn_signals.hear_quit(worker, lambda: host)  # type: ignore[arg-type]
    return host


def test_first_is_gunicorns(worker: Worker, host: Host) -> None:
    """The first signal goes to gunicorn, the other half of a Ctrl-C nowhere, and one more ends the wait."""
    signal.raise_signal(signal.SIGINT)
    assert worker.heard == [signal.SIGINT]
    signal.raise_signal(signal.SIGQUIT)
    assert not host.was_cut
    signal.raise_signal(signal.SIGINT)
    assert host.was_cut
    assert worker.heard == [signal.SIGINT]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_second_half_comes_at_once(worker: Worker, host: Host, first: signal.Signals) -> None:
    """Both signals of a Ctrl-C count, although one comes before the other one's handler has counted that."""
    second = {signal.SIGINT: signal.SIGQUIT, signal.SIGQUIT: signal.SIGINT}[first]
    worker.raises = True
    host.at_look = [second]
    with pytest.raises(SystemExit):
        signal.raise_signal(first)
    assert len(worker.heard) == 1
    assert not host.was_cut
    signal.raise_signal(first)
    assert host.was_cut
    assert len(worker.heard) == 1


def test_idle(worker: Worker, host: Host) -> None:
    """A worker without items is gunicorn's alone."""
    host.idle = True
    for _ in range(3):
        signal.raise_signal(signal.SIGQUIT)
    assert worker.heard == [signal.SIGQUIT] * 3
    assert not host.was_cut


@pytest.mark.parametrize("host", [None, "other"])
def test_no_host(worker: Worker, host: Any) -> None:
    """Before the first item, and in another process, gunicorn's handler is called."""
    gunicorn_signals.hear_quit(worker, lambda: host)  # type: ignore[arg-type]
    signal.raise_signal(signal.SIGINT)
    assert worker.heard == [signal.SIGINT]


def test_in_the_drain(worker: Worker, host: Host) -> None:
    """The first signal that comes while items are waited for does not raise there."""
    host._arrived = True
    signal.raise_signal(signal.SIGINT)
    assert worker.heard == []


def test_apps_handlers_are_left_alone() -> None:
    """A handler that is not the worker's stays."""

    def apps(number: int, frame: FrameType | None) -> None:
        """The app's."""

    before = signal.signal(signal.SIGQUIT, apps)
    gunicorn_signals.hear_quit(Worker(), lambda: None)  # type: ignore[arg-type]
    assert signal.signal(signal.SIGQUIT, before) is apps


@pytest.mark.parametrize("idle", [False, True], ids=["with items", "idle"])
def test_put_off_while_a_pool_takes_work(worker: Worker, host: Host, idle: bool) -> None:
    """While the main thread is in a pool's submit, gunicorn's handler would wait for that for ever."""
    host.idle = idle
    heard_inside: list[list[int]] = []

    class Pool(ThreadPoolExecutor):
        """Gets a signal in the middle of submit."""

        def _adjust_thread_count(self) -> None:
            signal.raise_signal(signal.SIGINT)
            heard_inside.append([*worker.heard])
            super()._adjust_thread_count()

    with Pool(1) as pool:
        pool.submit(threading.get_ident)
        until(lambda: worker.heard)
    assert heard_inside == [[]]


@pytest.mark.parametrize("is_workers", [True, False], ids=["the worker's", "a view's"])
def test_pool_shuts_down(worker: Worker, host: Host, is_workers: bool) -> None:
    """A signal waits until gunicorn's handler has shut its pool down, but not for the pool of a view."""
    host.idle = True
    heard_inside: list[list[int]] = []

    class Work(queue.SimpleQueue[Any]):
        """Gets a signal in the middle of shutdown, which wakes the threads by it."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if not heard_inside:
                heard_inside.append([])
                signal.raise_signal(signal.SIGQUIT)
                heard_inside[0] += worker.heard
            super().put(item)

    pool = ThreadPoolExecutor(1)
    pool._work_queue = Work()  # type: ignore[assignment]
    if is_workers:
        worker.pool = pool
        signal.raise_signal(signal.SIGINT)
    else:
        pool.shutdown(wait=False)
    until(lambda: signal.SIGQUIT in worker.heard)
    assert heard_inside == [[signal.SIGINT] if is_workers else [signal.SIGQUIT]]


def test_put_off_while_an_item_is_accepted(worker: Worker, host: Host) -> None:
    """An exception in the middle would leave an item that is waited for, and that no thread runs."""
    heard_inside: list[list[int]] = []

    @uninterruptible
    def accept() -> None:
        signal.raise_signal(signal.SIGINT)
        heard_inside.append([*worker.heard])

    accept()
    until(lambda: worker.heard)
    assert heard_inside == [[]]


def test_only_in_the_main_thread(worker: Worker) -> None:
    """Handlers are set where Python allows it, and nowhere else."""
    call: Callable[[], None] = lambda: gunicorn_signals.hear_quit(worker, lambda: None)  # type: ignore[arg-type]  # noqa: E731
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == worker.handle_quit
