"""Threads and locks of the operating system, also where gevent has replaced them with greenlets.

Under gevent a greenlet that computes or sleeps in C stops every other greenlet of the process. So the threads
that watch over items stay native. Native locks guard their data. They are held for a few lines that never
switch to another greenlet.
"""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from queue import Empty
from typing import TYPE_CHECKING, Any

from flask_background.concurrency.durations import bounded
from flask_background.concurrency.stop_signals import blocked, blocks_everywhere, current_mask

if TYPE_CHECKING:
    import asyncio
    import select
    from _thread import LockType
    from queue import SimpleQueue

__all__ = [
    "Empty",
    "Latch",
    "SimpleQueue",
    "get_ident",
    "is_own_thread",
    "is_patched",
    "is_service_thread",
    "new_event_loop",
    "new_lock",
    "new_poll",
    "original",
    "sleep",
    "start_bare_thread",
    "start_thread",
]

# If gevent has patched one of these modules, the process serves greenlets, even if other modules were left
# out.
_PATCHED = ("threading", "socket", "time", "select")

# The longest single wait for a lock (seconds), because CPython refuses 292 years.
_LONGEST_WAIT = 1e6

# The threads that were started here, by their identifiers; native threads, under gevent too.
_own_threads: set[int] = set()
# The service threads, each with the signals that its starter blocks (see ``stop_signals``).
_service_threads: dict[int, set[int]] = {}


_is_patched = False


def original(module: str, name: str) -> Any:
    """Return an attribute of a module as it was before gevent patched the module."""
    # Another thread may be importing gevent's module at this moment; then nothing is patched yet.
    get_original = getattr(sys.modules.get("gevent.monkey"), "get_original", None)
    if get_original is not None:
        return get_original(module, name)
    return getattr(importlib.import_module(module), name)


def is_patched() -> bool:
    """Return whether gevent has patched this process, wholly or in part."""
    global _is_patched
    if not _is_patched and "gevent.monkey" in sys.modules:
        # Another thread may be importing the module at this moment.
        patched = getattr(sys.modules["gevent.monkey"], "is_module_patched", None)
        _is_patched = patched is not None and any(map(patched, _PATCHED))
    return _is_patched


if not TYPE_CHECKING:
    SimpleQueue = original("queue", "SimpleQueue")


def new_lock() -> LockType:
    """Return a lock for native threads."""
    if not is_patched():  # the fast path: every waiting view makes a lock
        return _thread.allocate_lock()
    lock: LockType = original("_thread", "allocate_lock")()
    return lock


def start_thread(target: Callable[[], None], name: str, *, runs_app_code: bool = False) -> None:
    """Run target on a native daemon thread, in an empty ``contextvars.Context``.

    All threads of the package are started here. ``runs_app_code``: the thread runs items, callbacks or
    receivers, and the programs that they start inherit its signal mask. Any other thread is a service thread,
    and blocks the signals that stop a process. Raises RuntimeError if no thread can be started.
    """
    run = _made_ours(target, is_service=not runs_app_code)
    with blocked(current_mask()):  # blocked before the start, for a signal may reach a new thread at once
        if is_patched():
            original("_thread", "start_new_thread")(run, ())
        else:
            # Without an empty context, libraries that follow new threads (Sentry, OpenTelemetry) would give
            # this thread, which serves all visitors, the user and the trace of the request that happens to
            # start it.
            Context().run(threading.Thread(target=run, name=name, daemon=True).start)


def start_bare_thread(target: Callable[[], None]) -> None:
    """Run target on a service thread that threading knows nothing of.

    Safe in a signal handler, because no lock of threading is taken, and before gevent patches the process.
    """
    with blocked(current_mask()):
        original("_thread", "start_new_thread")(_made_ours(target, is_service=True), ())


def _made_ours(target: Callable[[], None], *, is_service: bool) -> Callable[[], None]:
    """Return target with the bookkeeping of our threads. The thread begins with stop signals blocked."""
    usual = _service_threads.get(get_ident())
    if usual is None:
        usual = current_mask()

    def run() -> None:
        ident = get_ident()
        _own_threads.add(ident)
        if is_service:
            _service_threads[ident] = usual
        elif not blocks_everywhere():
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        try:
            target()
        finally:
            _own_threads.discard(ident)
            _service_threads.pop(ident, None)

    return run


def is_service_thread() -> bool:
    """Return whether the calling thread is a service thread, which foreign code must not block."""
    return get_ident() in _service_threads


def is_own_thread() -> bool:
    """Return whether the calling thread was started here."""
    return get_ident() in _own_threads


def get_ident() -> int:
    """Return the number of the calling thread, which all its greenlets share."""
    ident: int = original("_thread", "get_ident")()
    return ident


def sleep(seconds: float) -> None:
    """Block only this thread for this many seconds."""
    original("time", "sleep")(seconds)


def new_poll() -> select.poll:
    """Return a poll object that blocks only this thread."""
    poll: select.poll = original("select", "poll")()
    return poll


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for the calling thread. In a greenlet, that has to be a LoopGreenlet."""
    import asyncio

    if not is_patched():
        return asyncio.new_event_loop()
    if is_own_thread():
        return asyncio.SelectorEventLoop(original("selectors", "DefaultSelector")())
    from flask_background.concurrency import hub_loop  # imports gevent

    return hub_loop.new_event_loop()


class Latch:
    """An event that stays set: once open, it lets all waiters pass, native threads and greenlets."""

    __slots__ = ("_lock", "_opened", "_wake")

    def __init__(self) -> None:
        self._opened = False
        self._lock = new_lock()
        self._lock.acquire()
        # The functions that wake waiting greenlets; a native lock would block their whole thread.
        self._wake: list[Callable[[], object]] = []

    def open(self) -> None:
        """Open the latch, so that all waiters pass. Opening it again does nothing."""
        self._opened = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # the latch was open
        if self._wake:
            for wake in tuple(self._wake):
                wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: no limit) for the latch; return whether it is open."""
        if self._opened:
            return True
        if timeout is not None:
            timeout = bounded(timeout)
        if is_patched() and not is_own_thread():
            return self._wait_in_greenlet(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not self._opened:
            left = _LONGEST_WAIT if end is None else min(end - time.monotonic(), _LONGEST_WAIT)
            if left < 0:
                break
            if self._lock.acquire(timeout=left):
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
                pass  # the waiter's thread has ended together with its loop

        self._wake.append(wake)
        try:
            if not self._opened:  # a second look, because ``open`` may not have seen ``wake``
                woken.wait(None if timeout is None or timeout > _LONGEST_WAIT else timeout)
        finally:
            self._wake.remove(wake)
        return self._opened


os.register_at_fork(after_in_child=_service_threads.clear)  # these are threads of the parent
