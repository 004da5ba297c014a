"""Timers fire in time and in order, unless cancelled; no thread runs when none is set."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from flask_background.concurrency import native
from flask_background.concurrency import timers as module
from flask_background.concurrency.clock import MovableClock
from flask_background.concurrency.timers import Timers

from ..helpers import BOUND, FOREVER, our_threads, until


def timer_threads() -> int:
    """The number of timer threads."""
    return sum(thread.name == "background-timers" for thread in our_threads())


def test_rings_in_time() -> None:
    """A timer fires at its time, and not before."""
    rung: list[float] = []
    began = time.monotonic()
    Timers().set(0.05, lambda: rung.append(time.monotonic()))
    until(lambda: rung)
    assert 0.05 <= rung[0] - began < BOUND
    until(lambda: not timer_threads())
    assert len(rung) == 1


def test_rings_in_order() -> None:
    """Timers fire in the order of their times, not in the order in which they were set."""
    timers = Timers()
    rung: list[float] = []
    for seconds in (0.15, 0.05, 0.1, 0.0):
        timers.set(seconds, lambda seconds=seconds: rung.append(seconds))  # type: ignore[misc]
    assert timer_threads() == 1
    until(lambda: len(rung) == 4)
    assert rung == [0.0, 0.05, 0.1, 0.15]


def test_earlier_alarm_wakes_the_thread() -> None:
    """A timer that is set while the thread waits for a later one fires at its own time."""
    timers = Timers()
    rung = threading.Event()
    late = timers.set(5, lambda: None)
    until(timer_threads)
    timers.set(0.01, rung.set)
    assert rung.wait(2)
    timers.cancel(late)


def test_cancelled() -> None:
    """A cancelled timer does not fire; cancelling it again, or too late, does no harm."""
    timers = Timers()
    rung: list[str] = []
    cancelled = timers.set(0.03, lambda: rung.append("cancelled"))
    kept = timers.set(0.06, lambda: rung.append("kept"))
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    until(lambda: rung)
    timers.cancel(kept)
    assert rung == ["kept"]


def test_cancelled_lets_go() -> None:
    """A cancelled timer does not keep its callback alive, and many of them do not stay in memory."""
    timers = Timers()
    for _ in range(10_000):
        timers.cancel(timers.set(0.2, lambda: None))
    assert len(timers._heap) < 200
    assert all(alarm.callback is None for alarm in timers._heap)


def test_cancelled_among_many() -> None:
    """Timers among many cancelled ones fire, each once."""
    timers = Timers()
    rung: list[int] = []
    for number in range(1_000):
        alarm = timers.set(0.02, lambda number=number: rung.append(number))  # type: ignore[misc]
        if number % 10:
            timers.cancel(alarm)
    until(lambda: len(rung) >= 100)
    assert rung == list(range(0, 1_000, 10))


def test_from_many_threads() -> None:
    """Timers can be set and cancelled from any thread at once: there is one thread, and none is lost."""
    timers = Timers()
    rung: list[int] = []
    barrier = threading.Barrier(8)

    def set_some(thread: int) -> None:
        barrier.wait(BOUND)
        for number in range(50):
            timers.set(0.02, lambda: rung.append(thread))
            timers.cancel(timers.set(0.02, lambda: rung.append(-1)))
            assert number >= 0

    threads = [threading.Thread(target=set_some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert timer_threads() <= 1
    until(lambda: len(rung) >= 400)
    assert sorted(rung) == sorted(list(range(8)) * 50)


@pytest.mark.parametrize(
    "end",
    [
        lambda timers: timers.set(0, lambda: None),
        lambda timers: timers.cancel(timers.set(60, lambda: None)),
    ],
    ids=["rung", "cancelled"],
)
def test_thread_ends(end: Callable[[Timers], None]) -> None:
    """The thread ends when no timer is set; the next timer starts another one."""
    timers = Timers()
    for _ in range(2):
        end(timers)
        until(lambda: not timer_threads(), 2.0)


def test_alarm_sets_another() -> None:
    """A timer's callback may set and cancel timers."""
    timers = Timers()
    rung = threading.Event()
    other = timers.set(0.5, lambda: None)

    def call() -> None:
        timers.cancel(other)
        timers.set(0.01, rung.set)

    timers.set(0.0, call)
    assert rung.wait(BOUND)


@pytest.mark.parametrize("far", [*FOREVER, 9.3e9])
def test_far_timer_holds_up_nobody(far: float) -> None:
    """A timer far ahead does not fire, can be cancelled, and keeps no other from firing."""
    timers = Timers()
    rung: list[str] = []
    late = timers.set(far, lambda: rung.append("late"))
    until(timer_threads)
    timers.set(0.01, lambda: rung.append("soon"))
    until(lambda: rung)
    timers.set(0.01, lambda: rung.append("later"))
    until(lambda: len(rung) == 2)
    assert rung == ["soon", "later"]
    timers.cancel(late)
    until(lambda: not timer_threads(), 2.0)


@pytest.mark.parametrize("seconds", [math.nan, -1, -math.inf, -(10**400)])
def test_rings_now(seconds: float) -> None:
    """NaN and negative numbers mean now, after the timers that were set for now earlier."""
    timers = Timers()
    rung: list[str] = []
    timers.set(0, lambda: rung.append("first"))
    timers.set(seconds, lambda: rung.append("second"))
    until(lambda: len(rung) == 2)
    assert rung == ["first", "second"]


def test_long_sleep_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that is longer than the thread's longest sleep fires once, at its time."""
    monkeypatch.setattr(module, "_LONGEST_SLEEP", 0.01)
    rung: list[float] = []
    began = time.monotonic()
    Timers().set(0.05, lambda: rung.append(time.monotonic()))
    until(lambda: rung)
    assert rung[0] - began >= 0.05


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_callback_raises(error: type[BaseException]) -> None:
    """The error of a callback is reported, and the timers after it fire."""
    failed: list[BaseException] = []
    timers = Timers(failed.append)
    rung = threading.Event()

    def fail() -> None:
        raise error

    timers.set(0, fail)
    timers.set(0.02, rung.set)
    assert rung.wait(BOUND)
    assert [type(each) for each in failed] == [error]


def refuse(target: Callable[[], None], name: str, **options: bool) -> None:
    """Start no thread."""
    raise RuntimeError("can't start new thread")


def test_moment_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that was set when no thread could be started fires when the next one is set."""
    timers = Timers()
    rung: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(native, "start_thread", refuse)
        timers.set(0.02, lambda: rung.append("first"))
        timers.have_thread()
    timers.set(0.04, lambda: rung.append("second"))
    until(lambda: len(rung) == 2)
    assert rung == ["first", "second"]


def test_have_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that was set when no thread could be started fires after the next look at the threads."""
    timers = Timers()
    rung = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(native, "start_thread", refuse)
        timers.set(0.02, rung.set)
    timers.have_thread()
    timers.have_thread()
    assert timer_threads() == 1
    assert rung.wait(BOUND)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look at the threads replaces a thread that has died."""
    timers = Timers()
    rung = threading.Event()
    died = threading.Event()

    def die(error: BaseException) -> None:
        died.set()
        raise SystemExit  # of which threading says nothing

    timers._failed = die
    timers.set(0, lambda: 1 / 0)
    assert died.wait(BOUND)
    until(lambda: not timer_threads())
    timers.set(0.02, rung.set)
    assert rung.wait(BOUND)


def test_moved_clock() -> None:
    """A timer follows its clock: when that is moved, what is due is called by who moved it, in order."""
    clock = MovableClock()
    timers = Timers(clock=clock)
    called: list[tuple[str, int]] = []
    for name, seconds in (("late", 90), ("soon", 30), ("much later", 600)):
        timers.set(seconds, lambda name=name: called.append((name, threading.get_ident())))  # type: ignore[misc]
    timers.fire_due()
    assert called == []
    clock.move_to(clock.time() + 100)
    timers.fire_due()
    assert called == [("soon", threading.get_ident()), ("late", threading.get_ident())]
    clock.move_to(clock.time() + 600)
    timers.fire_due()
    until(lambda: not timer_threads())


def test_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of closed timers ends at once when the last timer is done, which still rings."""
    monkeypatch.setattr(module, "_LINGER", 60.0)
    timers = Timers()
    rung = threading.Event()
    timers.set(0.1, rung.set)
    timers.close()
    assert rung.wait(BOUND)
    until(lambda: not timer_threads())
    timers.set(0.0, rung.clear)
    until(lambda: not rung.is_set())
    until(lambda: not timer_threads())
