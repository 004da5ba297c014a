"""Threads, latches and the hub, in a process that gevent has patched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_background.concurrency import callbacks, hub, native

from ..helpers import BOUND, slack, until

HERE = threading.get_native_id()


@pytest.fixture(autouse=True)
def known_hub() -> None:
    """Remember the main hub, as ``init_app`` does."""
    hub.remember_main_hub()


@pytest.fixture
def beats() -> Any:
    """A list that grows as long as the hub serves other greenlets."""
    beats: list[float] = []

    def beat() -> None:
        while True:
            beats.append(time.monotonic())
            gevent.sleep(0.005)

    greenlet = gevent.spawn(beat)
    yield beats
    greenlet.kill()


def in_thread(func: Callable[[], object]) -> list[Any]:
    """Start func on a native thread; the list gets what it returns."""
    results: list[Any] = []
    native.start_thread(lambda: results.append(func()), "background-test")
    return results


def test_threads_are_real(beats: list[float]) -> None:
    """A thread is one of the operating system, and its sleep holds up no other thread or greenlet."""
    seen = in_thread(lambda: (native.sleep(0.2), native.is_own_thread(), threading.get_native_id()))
    until(lambda: seen)
    assert seen[0][1]
    assert seen[0][2] != HERE
    assert not native.is_own_thread()
    assert len(beats) > 5


def test_latch_of_greenlets(beats: list[float]) -> None:
    """Greenlets wait for a latch without holding up others, and pass as soon as a native thread opens it."""
    latch, opened = native.Latch(), []

    def open_latch() -> None:
        native.sleep(0.2)
        opened.append(time.monotonic())
        latch.open()

    waiting = [gevent.spawn(latch.wait, BOUND) for _ in range(5)]
    in_thread(open_latch)
    assert latch.wait(BOUND)
    # Whoever polls would be late by half of what he sleeps.
    assert time.monotonic() - opened[0] < 1 + slack()
    gevent.joinall(waiting, timeout=BOUND)
    assert [greenlet.value for greenlet in waiting] == [True] * 5
    assert len(beats) > 5


def test_latch_of_native_threads() -> None:
    """Native threads and greenlets wait for one latch; a greenlet that opens it lets all pass."""
    latch = native.Latch()
    natives = [in_thread(lambda: latch.wait(BOUND)) for _ in range(3)]
    greenlets = [gevent.spawn(latch.wait, BOUND) for _ in range(3)]
    gevent.sleep(0.02)
    latch.open()
    gevent.joinall(greenlets, timeout=BOUND)
    assert [greenlet.value for greenlet in greenlets] == [True] * 3
    until(lambda: all(natives))
    assert natives == [[True]] * 3


def test_latch_stays_closed() -> None:
    """A greenlet's wait ends in time."""
    latch = native.Latch()
    assert not latch.wait(0)
    assert not latch.wait(-1)
    assert not latch.wait(0.02)
    latch.open()
    assert latch.wait(0)


def test_waiter_is_killed() -> None:
    """A greenlet that is killed as it waits leaves the latch in order."""
    latch = native.Latch()
    waiting = gevent.spawn(latch.wait)
    gevent.sleep(0)
    waiting.kill()
    latch.open()
    assert latch.wait(BOUND)


def test_call_soon() -> None:
    """A call from a native thread wakes the hub at once, and is made in the main thread."""
    event, seen = Event(), []
    in_thread(lambda: hub.call_soon(lambda: (seen.append(threading.get_native_id()), event.set())))
    assert event.wait(BOUND)
    assert seen == [HERE]


def test_run() -> None:
    """A native thread has a greenlet run a function that may take patched locks, in the thread's context."""
    visitor: ContextVar[str] = ContextVar("visitor")
    lock, seen = threading.Lock(), []

    def log() -> None:
        with lock:
            seen.append((threading.get_native_id(), visitor.get()))

    def work() -> None:
        visitor.set("Alice")
        hub.run(log)

    with lock:
        done = in_thread(work)
        gevent.sleep(0.05)
        assert not seen
    until(lambda: done)
    assert seen == [(HERE, "Alice")]
    hub.run(lambda: seen.append(threading.get_native_id()))
    assert seen[1] == HERE


def test_run_raises() -> None:
    """An exception of the function is raised in the thread that asked for the call."""

    def fail() -> None:
        raise LookupError("here")

    def work() -> str:
        try:
            hub.run(fail)
        except LookupError as error:
            return str(error)
        return "nothing"

    seen = in_thread(work)
    until(lambda: seen)
    assert seen == ["here"]


def test_run_while_the_main_thread_computes() -> None:
    """A call that is in a hurry waits once, and not for long, for a main thread that computes."""
    seen: list[int] = []

    def work() -> float:
        began = time.monotonic()
        for _ in range(20):
            hub.run(lambda: seen.append(threading.get_native_id()), within=0.1)
        return time.monotonic() - began

    took = in_thread(work)
    end = time.monotonic() + BOUND
    while not took and time.monotonic() < end:
        sum(range(1000))
    assert len(seen) == 20
    assert HERE not in seen
    assert took[0] < 20 * 0.1
    gevent.sleep(0.05)
    assert len(seen) == 20  # once each
    again = in_thread(lambda: hub.run(lambda: seen.append(threading.get_native_id()), within=BOUND))
    until(lambda: again)
    assert seen[20] == HERE


def test_callbacks_run_in_the_main_thread() -> None:
    """A callback on a callback thread may take patched locks."""
    seen: list[int] = []
    callbacks.threads.call(lambda: seen.append(threading.get_native_id()), callbacks.report)
    until(lambda: seen)
    assert seen == [HERE]
