"""The alarms: called in time, in order, unless cancelled; no thread when nothing is due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from flask_background.concurrency.timers import Timers

from ..helpers import BOUND, our_threads, until


def alarm_threads() -> int:
    """How many threads of alarms there are."""
    return sum(thread.name == "background-timers" for thread in our_threads())


def test_rings_in_time() -> None:
    """An alarm rings once its time has come, and not before."""
    rung: list[float] = []
    began = time.monotonic()
    Timers().set(0.05, lambda: rung.append(time.monotonic()))
    until(lambda: rung)
    assert 0.05 <= rung[0] - began < BOUND
    until(lambda: not alarm_threads())
    assert len(rung) == 1


def test_rings_in_order() -> None:
    """Timers ring in the order of their times, whatever the order in which they were set."""
    alarms = Timers()
    rung: list[float] = []
    for seconds in (0.9, 0.3, 0.6, 0.0):
        alarms.set(seconds, lambda seconds=seconds: rung.append(seconds))  # type: ignore[misc]
    assert alarm_threads() == 1
    until(lambda: len(rung) == 4)
    assert rung == [0.0, 0.3, 0.6, 0.9]


def test_earlier_alarm_wakes_the_thread() -> None:
    """An alarm that is set while the thread waits for a later one rings in its own time."""
    alarms = Timers()
    rung = threading.Event()
    late = alarms.set(5, lambda: None)
    until(alarm_threads)
    alarms.set(0.01, rung.set)
    assert rung.wait(2)
    alarms.cancel(late)


def test_cancelled() -> None:
    """A cancelled alarm does not ring; cancelling again, or too late, does no harm."""
    alarms = Timers()
    rung: list[str] = []
    cancelled = alarms.set(0.3, lambda: rung.append("cancelled"))
    kept = alarms.set(0.4, lambda: rung.append("kept"))
    alarms.cancel(cancelled)
    alarms.cancel(cancelled)
    until(lambda: rung)
    alarms.cancel(kept)
    assert rung == ["kept"]


def test_cancelled_lets_go() -> None:
    """A cancelled alarm does not keep what it would have called, nor do many of them stay in memory."""
    alarms = Timers()
    for _ in range(10_000):
        alarms.cancel(alarms.set(0.2, lambda: None))
    assert len(alarms._heap) < 200
    assert all(alarm.callback is None for alarm in alarms._heap)


def test_cancelled_among_many() -> None:
    """Those that are kept among many cancelled ones ring, each once."""
    alarms = Timers()
    rung: list[int] = []
    for number in range(1_000):
        alarm = alarms.set(0.1, lambda number=number: rung.append(number))  # type: ignore[misc]
        if number % 10:
            alarms.cancel(alarm)
    until(lambda: len(rung) >= 100)
    assert rung == list(range(0, 1_000, 10))


def test_from_many_threads() -> None:
    """Timers can be set and cancelled from any thread at once: there is one thread, and none is lost."""
    alarms = Timers()
    rung: list[int] = []
    barrier = threading.Barrier(8)

    def set_some(thread: int) -> None:
        barrier.wait(BOUND)
        for number in range(50):
            alarms.set(0.02, lambda: rung.append(thread))
            alarms.cancel(alarms.set(0.02, lambda: rung.append(-1)))
            assert number >= 0

    threads = [threading.Thread(target=set_some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert alarm_threads() <= 1
    until(lambda: len(rung) >= 400)
    assert sorted(rung) == sorted(list(range(8)) * 50)


@pytest.mark.parametrize(
    "end",
    [
        lambda alarms: alarms.set(0, lambda: None),
        lambda alarms: alarms.cancel(alarms.set(60, lambda: None)),
    ],
    ids=["rung", "cancelled"],
)
def test_thread_ends(end: Callable[[Timers], None]) -> None:
    """The thread ends when nothing is due any more, also if all was cancelled; another alarm starts one."""
    alarms = Timers()
    for _ in range(2):
        end(alarms)
        until(lambda: not alarm_threads(), 2.0)


def test_alarm_sets_another() -> None:
    """An alarm's callback may set and cancel alarms."""
    alarms = Timers()
    rung = threading.Event()
    other = alarms.set(0.5, lambda: None)

    def call() -> None:
        alarms.cancel(other)
        alarms.set(0.01, rung.set)

    alarms.set(0.0, call)
    assert rung.wait(BOUND)
