"""Threads and locks of the operating system, also where gevent has put greenlets in their place.

Under gevent a greenlet that computes or sleeps in C stops every other greenlet of the process. So the threads
that watch over items stay native. Native locks guard their data, held for a few lines that never switch to
another greenlet.
"""

from __future__ import annotations

import _thread
import importlib
import os
import sys
import threading
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import select
    from _thread import LockType

__all__ = [
    "Empty",
    "Latch",
    "SimpleQueue",
    "exit_code_of",
    "get_ident",
    "has_ended",
    "is_own_thread",
    "is_patched",
    "new_event_loop",
    "new_lock",
    "new_poll",
    "sleep",
    "start_program",
    "start_thread",
]

# A process of which gevent has patched one of these serves greenlets, whatever else was left out.
_PATCHED = ("threading", "socket", "time", "select")

# Python refuses to wait longer than some 9.2e9 s.
_LONGEST = 1e6

_own_threads: set[int] = set()
_is_patched = False


def is_patched() -> bool:
    """Whether gevent has patched this process, wholly or in part."""
    global _is_patched
    if not _is_patched and "gevent.monkey" in sys.modules:
        # The module may be half imported by another thread at this moment.
        patched = getattr(sys.modules["gevent.monkey"], "is_module_patched", None)
        _is_patched = patched is not None and any(map(patched, _PATCHED))
    return _is_patched


def original(module: str, name: str) -> Any:
    """The attribute of a module as it was before gevent patched the module, if gevent did."""
    if is_patched():
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(importlib.import_module(module), name)


def get_ident() -> int:
    """The number of the calling thread, the same for all its greenlets."""
    ident: int = original("_thread", "get_ident")()
    return ident


def is_own_thread() -> bool:
    """Whether ``start_thread`` has started the calling thread, in a process that gevent has patched."""
    return get_ident() in _own_threads


def new_lock() -> LockType:
    """A lock between real threads."""
    if not is_patched():  # every waiting view makes one
        return _thread.allocate_lock()
    lock: LockType = original("_thread", "allocate_lock")()
    return lock


def start_thread(target: Callable[[], None], name: str) -> None:
    """Run target on a daemon thread of the operating system."""
    if not is_patched():
        threading.Thread(target=target, name=name, daemon=True).start()
        return
    get_ident = original("_thread", "get_ident")

    def run() -> None:
        _own_threads.add(get_ident())
        try:
            target()
        finally:
            _own_threads.discard(get_ident())

    original("_thread", "start_new_thread")(run, ())


def start_program(arguments: Sequence[str], keeps: Sequence[int]) -> int:
    """Start a program with these file descriptors besides the standard ones; returns its pid.

    As multiprocessing does it: gevent leaves no Popen that works on other threads than the main one.
    """
    from multiprocessing import util

    pid: int = util.spawnv_passfds(os.fsencode(arguments[0]), arguments, keeps)
    return pid


def has_ended(pid: int) -> bool:
    """Whether a child process has ended; nobody is told yet how, so its pid stays its own.

    Raises ChildProcessError if somebody else in this process has been told.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def exit_code_of(pid: int) -> int | None:
    """How a child process has ended: its status, or minus a signal's number; None if it has not.

    Raises ChildProcessError if somebody else in this process has been told.
    """
    ended, status = original("os", "waitpid")(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def sleep(seconds: float) -> None:
    """Hold up this thread alone."""
    original("time", "sleep")(seconds)


def new_poll() -> select.poll:
    """A poll that holds up this thread alone."""
    poll: select.poll = original("select", "poll")()
    return poll


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop for the calling thread. In a greenlet, that has to be a LoopGreenlet."""
    import asyncio

    if not is_patched():
        return asyncio.new_event_loop()
    if is_own_thread():
        return asyncio.SelectorEventLoop(original("selectors", "DefaultSelector")())
    from flask_background.concurrency import hub_loop  # with gevent

    return hub_loop.new_event_loop()


class Latch:
    """Opens once, and lets all waiters pass from then on: native threads as well as gevent's greenlets."""

    __slots__ = ("_lock", "_opened", "_wake")

    def __init__(self) -> None:
        self._opened = False
        self._lock = new_lock()
        self._lock.acquire()
        # What wakes the greenlets that wait: a native lock would stop their whole thread.
        self._wake: list[Callable[[], object]] = []

    def open(self) -> None:
        """Let all waiters pass. To open an open latch does no harm."""
        self._opened = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it was open
        for wake in tuple(self._wake):
            wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit); returns whether the latch is open."""
        if self._opened:
            return True
        if timeout is not None:
            timeout = min(max(timeout, 0.0), _LONGEST)
        if is_patched() and not is_own_thread():
            return self._wait_in_greenlet(timeout)
        if self._lock.acquire(timeout=-1 if timeout is None else timeout):
            self.open()  # the next waiter needs the lock, too
        return self._opened

    def _wait_in_greenlet(self, timeout: float | None) -> bool:
        from gevent import get_hub
        from gevent.event import Event

        loop, woken = get_hub().loop, Event()

        def wake() -> None:
            try:
                loop.run_callback_threadsafe(woken.set)
            except ValueError:
                pass  # the waiter's thread has ended, and its loop with it

        self._wake.append(wake)
        try:
            if not self._opened:  # looked at once more, because ``open`` may not have seen ``wake``
                woken.wait(timeout)
        finally:
            self._wake.remove(wake)
        return self._opened
