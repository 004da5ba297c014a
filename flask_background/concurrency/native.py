"""Operating-system threads and locks, also where gevent has put greenlets in their place.

Under gevent an item on a "thread" that burns CPU or sleeps in C stops every greenlet of the process,
gunicorn's heartbeat among them. So items, and whatever watches over them, live on real threads, and what
they share with greenlets is guarded by real locks, held for a few lines that never switch.
"""

from __future__ import annotations

import _thread
import importlib
import os
import sys
import threading
import time
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
    "has_ended",
    "new_event_loop",
    "new_lock",
    "new_poll",
    "sleep",
    "start_program",
    "start_thread",
]

# How often a greenlet looks at a gate: a real lock cannot wake it.
_GREENLET_POLL = 0.01

_own_threads: set[int] = set()


def _original(module: str, name: str) -> Any:
    """The attribute as it was before gevent patched the module, if it did."""
    if _patched():
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(importlib.import_module(module), name)


def _patched() -> bool:
    # The module may be there without being patched, or half imported by another thread at this moment.
    is_module_patched = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", None)
    return is_module_patched is not None and bool(is_module_patched("threading"))


def new_lock() -> LockType:
    """A lock between real threads."""
    if not _patched():  # every waiting view makes one
        return _thread.allocate_lock()
    lock: LockType = _original("_thread", "allocate_lock")()
    return lock


def start_thread(target: Callable[[], None], name: str) -> None:
    """Run target on a daemon thread of the operating system."""
    if not _patched():
        threading.Thread(target=target, name=name, daemon=True).start()
        return
    get_ident = _original("_thread", "get_ident")

    def run() -> None:
        _own_threads.add(get_ident())
        try:
            target()
        finally:
            _own_threads.discard(get_ident())

    _original("_thread", "start_new_thread")(run, ())


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
    ended, status = _original("os", "waitpid")(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def sleep(seconds: float) -> None:
    """Hold up this thread alone."""
    _original("time", "sleep")(seconds)


def new_poll() -> select.poll:
    """A poll that holds up this thread alone."""
    poll: select.poll = _original("select", "poll")()
    return poll


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop that waits in the operating system, not in gevent's hub."""
    import asyncio

    if not _patched():
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(_original("selectors", "DefaultSelector")())


class Latch:
    """Opens once; whoever waits passes then. Cheaper than an Event, and safe under gevent."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let everybody pass. Once is enough; more often does no harm."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it was open

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds; says whether the gate is open."""
        if timeout is not None and timeout < 0:
            timeout = 0.0
        if _patched() and _original("_thread", "get_ident")() not in _own_threads:
            opened = self._wait_in_greenlet(timeout)
        else:
            opened = self._lock.acquire(timeout=-1 if timeout is None else min(timeout, 1e6))
        if opened:
            self.open()
        return opened

    def _wait_in_greenlet(self, timeout: float | None) -> bool:
        gevent = sys.modules["gevent"]
        end = None if timeout is None else time.monotonic() + timeout
        while not self._lock.acquire(blocking=False):
            if end is not None and time.monotonic() >= end:
                return False
            gevent.sleep(_GREENLET_POLL)
        return True
