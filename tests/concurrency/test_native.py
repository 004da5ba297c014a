"""Threads and locks of the operating system, with and without gevent's patches."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import pytest

from flask_background.concurrency import native

from ..helpers import BOUND, FOREVER, until
from ..under_gevent import pass_under_gevent


def test_gate_waits() -> None:
    """A latch is closed until it is opened; a wait ends in time."""
    gate = native.Latch()
    began = time.monotonic()
    assert not gate.wait(0.02)
    assert time.monotonic() - began >= 0.02
    assert not gate.wait(0)
    assert not gate.wait(-1)
    gate.open()
    for timeout in (0, -1, BOUND, None, math.nan, -(10**400), *FOREVER):
        assert gate.wait(timeout)


def test_gate_waits_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is longer than a lock takes in one go takes its time."""
    monkeypatch.setattr(native, "_LONGEST_WAIT", 0.01)
    gate = native.Latch()
    began = time.monotonic()
    assert not gate.wait(0.05)
    assert time.monotonic() - began >= 0.05
    threading.Timer(0.05, gate.open).start()
    assert gate.wait(BOUND)


def test_gate_opens_more_than_once() -> None:
    """Opening an open latch does no harm."""
    gate = native.Latch()
    gate.open()
    gate.open()
    assert gate.wait(0)
    gate.open()
    assert gate.wait(0)


@pytest.mark.parametrize("timeout", [None, BOUND, *FOREVER])
def test_gate_lets_all_pass(timeout: float | None) -> None:
    """All waiting threads pass."""
    gate = native.Latch()
    passed: list[bool] = []
    waiting = threading.Semaphore(0)

    def wait() -> None:
        waiting.release()
        passed.append(gate.wait(timeout))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=BOUND)
    gate.open()
    for thread in threads:
        thread.join(BOUND)
    assert passed == [True] * 8


def test_start_thread() -> None:
    """A thread is a daemon with the name that it was given."""
    seen: list[threading.Thread] = []
    native.start_thread(lambda: seen.append(threading.current_thread()), "background-test")
    until(lambda: seen)
    assert seen[0].daemon
    assert seen[0].name == "background-test"


def test_thread_is_not_in_the_callers_context() -> None:
    """A thread sees nothing of the context in which it is started, which may be a visitor's."""
    user = ContextVar[str]("user")
    token = user.set("alice")
    seen: list[str | None] = []
    for runs_app_code in (False, True):
        native.start_thread(
            lambda: seen.append(user.get(None)), "background-test", runs_app_code=runs_app_code
        )
    native.start_bare_thread(lambda: seen.append(user.get(None)))
    until(lambda: len(seen) == 3)
    user.reset(token)
    assert seen == [None] * 3


def blocked_in(start: Callable[[Callable[[], None]], None]) -> set[int]:
    """The signals that a thread started by this function blocks."""
    seen: list[set[int]] = []
    start(lambda: seen.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
    until(lambda: seen)
    return seen[0]


def service(target: Callable[[], None]) -> None:
    """Start a service thread."""
    native.start_thread(target, "background-test")


def app_code(target: Callable[[], None]) -> None:
    """Start a thread for the app's code."""
    native.start_thread(target, "background-test", runs_app_code=True)


STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


@pytest.mark.parametrize("start", [service, native.start_bare_thread])
def test_service_threads_block_signals(start: Callable[[Callable[[], None]], None]) -> None:
    """A service thread blocks the signals that stop the process; its starter does not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert blocked_in(start) >= STOPS
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("between", [0, 1, 2])
def test_threads_of_the_app_block_what_it_blocks(between: int) -> None:
    """A thread for the app's code has the app's signal mask, even if a service thread starts it."""
    own = {signal.SIGUSR1}
    start: Callable[[Callable[[], None]], None] = app_code
    for _ in range(between):
        start = partial(lambda inner, target: service(partial(inner, target)), start)
    assert not blocked_in(start) & STOPS
    before = signal.pthread_sigmask(signal.SIG_BLOCK, own | {signal.SIGHUP})
    try:
        assert blocked_in(start) & (STOPS | own) == own | {signal.SIGHUP}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_under_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under uWSGI, which ends the interpreter on whatever thread gets TERM, all threads block it."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    assert blocked_in(app_code) >= STOPS
    assert blocked_in(service) >= STOPS


def test_is_service_thread() -> None:
    """A thread knows whether it is a service thread, and whether the package started it."""
    seen: list[bool] = []
    native.start_thread(lambda: seen.append(native.is_service_thread()), "background-test")
    until(lambda: seen)
    native.start_thread(
        lambda: seen.append(native.is_service_thread()), "background-test", runs_app_code=True
    )
    until(lambda: len(seen) == 2)
    assert seen == [True, False]
    assert not native.is_service_thread()


def test_thread_that_cannot_start_leaves_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the caller gets the error, and blocks the same signals as before."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        native.start_thread(lambda: None, "background-test")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_signal_while_a_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that raises just as a thread is started leaves no signal blocked."""

    class Stopped(BaseException):
        pass

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Stopped

    handler = signal.signal(signal.SIGTERM, stop)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    start = threading.Thread.start

    def signalled(thread: threading.Thread) -> None:
        start(thread)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(threading.Thread, "start", signalled)
    try:
        with pytest.raises(Stopped):  # where another thread has got it, it is heard a moment later
            until(lambda: native.start_thread(lambda: None, "background-test"))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_event_loop() -> None:
    """The event loop is a new one, and works."""
    loop = native.new_event_loop()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, 42)) == 42
    finally:
        loop.close()


def test_sleep() -> None:
    """A sleep takes its time."""
    began = time.monotonic()
    native.sleep(0.01)
    assert time.monotonic() - began >= 0.01


@pytest.mark.process
@pytest.mark.timeout(240)
def test_under_gevent() -> None:
    """Threads, latches and calls between threads do their work in a process that gevent has patched."""
    pass_under_gevent("tests/concurrency/patched_native.py")
