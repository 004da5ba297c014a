"""Threads and locks of the operating system, also where gevent has put greenlets in their place.

Under gevent a greenlet that computes or sleeps in C stops every other greenlet of the process. So the threads
that watch over items stay native. Native locks guard their data, held for a few lines that never switch to
another greenlet.
"""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from queue import Empty
from typing import TYPE_CHECKING, Any

from flask_background.concurrency.durations import bounded
from flask_background.concurrency.private_names import find_private
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
    "exit_code_of",
    "get_ident",
    "has_ended",
    "interpreter",
    "is_own_thread",
    "is_patched",
    "is_service_thread",
    "new_event_loop",
    "new_lock",
    "new_poll",
    "original",
    "sleep",
    "start_program",
    "start_thread",
    "start_thread_in_handler",
]

# What CPython has, and does not document, and is used here: see ``private_names``.
PRIVATE_NAMES = ("multiprocessing.util.spawnv_passfds",)

# A process of which gevent has patched one of these serves greenlets, whatever else was left out.
_PATCHED = ("threading", "socket", "time", "select")

# The longest that a lock is waited for in one go (seconds): CPython refuses 292 years.
_LONGEST_WAIT = 1e6

# The threads that were started here, by their identifiers: real ones, under gevent too.
_own_threads: set[int] = set()
# The service threads, each with what the thread that started it blocks (see ``stop_signals``).
_service_threads: dict[int, set[int]] = {}


_is_patched = False


def original(module: str, name: str) -> Any:
    """The attribute of a module as it was before gevent patched the module, if gevent did."""
    # gevent's module may be half imported by another thread at this moment; then it has patched nothing yet.
    get_original = getattr(sys.modules.get("gevent.monkey"), "get_original", None)
    if get_original is not None:
        return get_original(module, name)
    return getattr(importlib.import_module(module), name)


def is_patched() -> bool:
    """Whether gevent has patched this process, wholly or in part."""
    global _is_patched
    if not _is_patched and "gevent.monkey" in sys.modules:
        # The module may be half imported by another thread at this moment.
        patched = getattr(sys.modules["gevent.monkey"], "is_module_patched", None)
        _is_patched = patched is not None and any(map(patched, _PATCHED))
    return _is_patched


if not TYPE_CHECKING:
    SimpleQueue = original("queue", "SimpleQueue")


def new_lock() -> LockType:
    """A lock between real threads."""
    if not is_patched():  # every waiting view makes one
        return _thread.allocate_lock()
    lock: LockType = original("_thread", "allocate_lock")()
    return lock


def start_thread(target: Callable[[], None], name: str, *, runs_app_code: bool = False) -> None:
    """Run target on a daemon thread of the operating system, in an empty ``contextvars.Context``.

    All threads of the package are started here. ``runs_app_code``: items, callbacks or receivers run there,
    and programs that they start inherit its signal mask; every other one is a service thread, and blocks the
    signals that stop a process. Raises RuntimeError if there is no thread to be had.
    """
    run = _made_ours(target, is_service=not runs_app_code)
    with blocked(current_mask()):  # here, for a thread that began without could get a signal at once
        if is_patched():
            original("_thread", "start_new_thread")(run, ())
        else:
            # Else whoever follows new threads (Sentry, OpenTelemetry) would give this one, which serves all
            # visitors, the user and the trace of the request that happens to start it.
            Context().run(threading.Thread(target=run, name=name, daemon=True).start)


def start_thread_in_handler(target: Callable[[], None]) -> None:
    """Run target on a service thread; fit for a signal handler, for it takes none of threading's locks."""
    with blocked(current_mask()):
        original("_thread", "start_new_thread")(_made_ours(target, is_service=True), ())


def _made_ours(target: Callable[[], None], *, is_service: bool) -> Callable[[], None]:
    """What a thread of ours runs. It begins with the stop signals blocked."""
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
    """Whether the caller runs on a thread that foreign code must not hold up."""
    return get_ident() in _service_threads


def is_own_thread() -> bool:
    """Whether the calling thread was started here."""
    return get_ident() in _own_threads


def get_ident() -> int:
    """The number of the calling thread, the same for all its greenlets."""
    ident: int = original("_thread", "get_ident")()
    return ident


def interpreter() -> str:
    """The path of the Python that this process runs in.

    ``sys.executable`` is the server's program where that has Python built in (uWSGI, mod_wsgi), or is empty.
    Raises FileNotFoundError if there is none.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if os.path.basename(sys.executable).startswith(("python", "pypy")):
        return sys.executable
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix)):
        for candidate in (name, "python3", "python"):
            path = os.path.join(prefix, "bin", candidate)
            if os.access(path, os.X_OK):
                return path
    raise FileNotFoundError(
        f"child processes need a Python, and there is no {name} in {sys.prefix}/bin: sys.executable is"
        f" {sys.executable!r}"
    )


def start_program(arguments: Sequence[str], keeps: Sequence[int]) -> int:
    """Start a program with these file descriptors besides the standard ones; returns its pid.

    As multiprocessing does it: gevent leaves no Popen that works on other threads than the main one.
    """
    spawn = find_private(PRIVATE_NAMES[0])
    if spawn is None:  # then descriptors that somebody has made inheritable get there, too
        actions = [(os.POSIX_SPAWN_DUP2, keep, keep) for keep in keeps]
        return os.posix_spawn(arguments[0], list(arguments), os.environ, file_actions=actions)
    pid: int = spawn(os.fsencode(arguments[0]), arguments, keeps)
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
        """Wait up to timeout seconds (None: without limit), any number of them; says whether it is open."""
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
                pass  # the waiter's thread has ended, and its loop with it

        self._wake.append(wake)
        try:
            if not self._opened:  # looked at once more, because ``open`` may not have seen ``wake``
                woken.wait(None if timeout is None or timeout > _LONGEST_WAIT else timeout)
        finally:
            self._wake.remove(wake)
        return self._opened


os.register_at_fork(after_in_child=_service_threads.clear)  # they are the parent's
