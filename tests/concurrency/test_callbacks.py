"""The threads for callbacks: slow ones hold up no others, and errors come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from flask_background.concurrency import callbacks, native
from flask_background.concurrency.callbacks import CallbackThreads, CallsInOrder

from ..helpers import BOUND, Script, callbacks_are_over, our_threads, until


def count() -> int:
    """The number of callback threads."""
    return sum(thread.name == "background-callbacks" for thread in our_threads())


@pytest.fixture
def failed() -> list[BaseException]:
    """The errors of callbacks."""
    return []


def test_called_elsewhere(failed: list[BaseException]) -> None:
    """A callback is called once, on another thread, which ends when there is nothing to call."""
    called: list[int] = []
    CallbackThreads().call(lambda: called.append(threading.get_ident()), failed.append)
    until(lambda: called)
    callbacks_are_over()
    assert len(called) == 1
    assert called[0] != threading.get_ident()
    assert failed == []


def test_slow_ones_hold_up_no_others(failed: list[BaseException], gate: threading.Event) -> None:
    """While some callbacks block, others are called."""
    threads = CallbackThreads()
    for _ in range(10):
        threads.call(partial(gate.wait, BOUND), failed.append)
        called = threading.Event()
        threads.call(called.set, failed.append)
        assert called.wait(2.0)


def test_wait(failed: list[BaseException], gate: threading.Event) -> None:
    """A wait ends with the last callback that runs, or with its time; with none it ends at once."""
    threads = CallbackThreads()
    assert threads.wait(0)
    for _ in range(3):
        threads.call(partial(gate.wait, BOUND), failed.append)
    assert not threads.wait(0.01)
    gate.set()
    assert threads.wait(BOUND)
    assert threads.wait(0)


def test_threads_are_bounded(
    failed: list[BaseException], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of callback threads is bounded; further callbacks are called when one of them is done."""
    monkeypatch.setattr(callbacks, "MOST", 3)
    threads = CallbackThreads()
    called: list[int] = []
    for number in range(50):
        threads.call(lambda number=number: gate.wait(BOUND) and called.append(number), failed.append)
    assert count() == 3
    gate.set()
    until(lambda: len(called) == 50)
    assert sorted(called) == list(range(50))


def test_threads_are_used_again(failed: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks that come one after the other are called on one thread."""
    monkeypatch.setattr(callbacks, "_LINGER", BOUND)
    threads = CallbackThreads()
    idents = set()
    for number in range(20):
        if number == 19:
            monkeypatch.setattr(callbacks, "_LINGER", 0.0)  # the thread ends after this one
        called: list[int] = []
        threads.call(lambda called=called: called.append(threading.get_ident()), failed.append)
        assert threads.wait(BOUND)
        idents.update(called)
    assert len(idents) == 1
    monkeypatch.setattr(callbacks, "_LINGER", 0.0)
    threads.call(lambda: None, failed.append)  # after this one the thread ends


@pytest.mark.usefixtures("hasty")
def test_from_many_threads(failed: list[BaseException]) -> None:
    """Callbacks that several threads hand over at the same time are called once each."""
    threads = CallbackThreads()
    called: list[int] = []
    barrier = threading.Barrier(8)

    def call_some(first: int) -> None:
        barrier.wait(BOUND)
        for number in range(100):
            threads.call(partial(called.append, first + number), failed.append)
            if number % 10 == 0:
                time.sleep(0.02)  # about as long as an idle thread stays

    starters = [threading.Thread(target=call_some, args=(1_000 * number,)) for number in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(BOUND)
    until(lambda: len(called) == 800)
    callbacks_are_over()
    assert len(set(called)) == len(called) == 800
    assert threads._count == 0
    assert not threads._idle
    assert not threads._waiting


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_raises(error: type[BaseException], failed: list[BaseException]) -> None:
    """The error of a callback is reported, and its thread calls the next callback."""
    threads = CallbackThreads()

    def fail() -> None:
        raise error

    for _ in range(3):
        threads.call(fail, failed.append)
    until(lambda: len(failed) == 3)
    callbacks_are_over()
    assert {type(each) for each in failed} == {error}


def test_telling_raises(capfd: pytest.CaptureFixture[str]) -> None:
    """An error that cannot be reported is printed, and the next callback is called."""
    threads = CallbackThreads()

    def fail() -> None:
        raise ValueError("callback")

    def fail_to_tell(error: BaseException) -> None:
        raise SystemExit("no log")

    threads.call(fail, fail_to_tell)
    called = threading.Event()
    threads.call(called.set, fail_to_tell)
    assert called.wait(BOUND)
    callbacks_are_over()
    assert "SystemExit: no log" in capfd.readouterr().err


class Unspeakable(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def test_report_of_an_odd_error(capfd: pytest.CaptureFixture[str]) -> None:
    """An error that cannot be printed is named."""
    callbacks.report(Unspeakable())
    assert "Unspeakable" in capfd.readouterr().err


def test_without_a_thread(failed: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback for which no thread can be started is called all the same; later ones get threads again."""
    threads = CallbackThreads()

    def refuse(target: Callable[[], None], name: str, **options: bool) -> None:
        raise RuntimeError("can't start new thread")

    called: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(native, "start_thread", refuse)
        threads.call(lambda: called.append(threading.get_ident()), failed.append)
    assert called == [threading.get_ident()]
    threads.call(lambda: called.append(threading.get_ident()), failed.append)
    until(lambda: len(called) == 2)
    assert called[1] != called[0]


def test_after_a_fork(script: Callable[..., Script]) -> None:
    """A forked child has threads for callbacks of its own."""
    program = script(
        """
        import os, threading, time
        from flask_background.concurrency import callbacks
        called = threading.Event()
        callbacks.threads.call(called.set, callbacks.report)
        assert called.wait(20)
        child = os.fork()
        if child == 0:
            callbacks.threads.call(lambda: os._exit(0), callbacks.report)
            time.sleep(20)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert program.ends() == 0, program.said


def test_in_order(failed: list[BaseException]) -> None:
    """Calls are made one after the other, as they came, whatever one of them raises."""
    calls = CallsInOrder()
    called: list[int] = []
    for number in range(100):
        calls.call(partial(called.append, number), failed.append)
        calls.call(lambda: 1 / 0, failed.append)
    assert calls.wait(BOUND)
    assert not calls.is_busy
    assert called == list(range(100))
    assert len(failed) == 100


def test_in_order_waits(failed: list[BaseException], gate: threading.Event) -> None:
    """The wait for the last one ends in time, and leaves nothing behind."""
    calls = CallsInOrder()
    assert calls.wait(0)
    calls.call(partial(gate.wait, BOUND), failed.append)
    for timeout in (-1, 0, 0.02):
        assert not calls.wait(timeout)
    assert calls.is_busy
    assert calls._idle_latches == []
    gate.set()
    assert calls.wait(BOUND)


def test_in_order_among_others(failed: list[BaseException], gate: threading.Event) -> None:
    """A blocked sequence of calls does not hold up another sequence."""
    slow, quick = CallsInOrder(), CallsInOrder()
    slow.call(partial(gate.wait, BOUND), failed.append)
    quick.call(lambda: None, failed.append)
    assert quick.wait(2.0)
    assert slow.is_busy


def test_idle_threads_can_end(failed: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that have nothing to call end when they are told to, and callbacks are called by new ones."""
    monkeypatch.setattr(callbacks, "_LINGER", 60.0)
    threads, called = CallbackThreads(), list[int]()
    threads.call(lambda: called.append(1), failed.append)
    until(lambda: called and threads.wait(BOUND))
    threads.end_idle()
    callbacks_are_over()
    threads.call(lambda: called.append(2), failed.append)
    until(lambda: called == [1, 2] and threads.wait(BOUND))
    threads.end_idle()
    callbacks_are_over()
