"""Operating-system threads and locks, also where gevent has put greenlets in their place.

Under gevent an item on a "thread" that burns CPU or sleeps in C stops every greenlet of the process,
gunicorn's heartbeat among them. So items, and whatever watches over them, live on real threads, and what
they share with greenlets is guarded by real locks, held for a few lines that never switch.
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
    "has_ended",
    "is_service_thread",
    "new_event_loop",
    "new_lock",
    "new_poll",
    "sleep",
    "start_program",
    "start_thread",
    "start_thread_in_handler",
]

# What CPython has, and does not document, and is used here: see ``private_names``.
PRIVATE_NAMES = ("multiprocessing.util.spawnv_passfds",)

# How often a greenlet looks at a latch: a real lock cannot wake it.
_GREENLET_POLL = 0.01
# The longest that a lock is waited for in one go (seconds): CPython refuses 292 years.
_LONGEST_WAIT = 1e6

# The threads that were started here, by their identifiers: real ones, under gevent too.
_own_threads: set[int] = set()
# The service threads, each with what the thread that started it blocks (see ``stop_signals``).
_service_threads: dict[int, set[int]] = {}


def _original(module: str, name: str) -> Any:
    """The attribute as it was before gevent patched the module, if it did."""
    # gevent's module may be half imported by another thread at this moment; then it has patched nothing yet.
    get_original = getattr(sys.modules.get("gevent.monkey"), "get_original", None)
    if get_original is not None:
        return get_original(module, name)
    return getattr(importlib.import_module(module), name)


def _patched() -> bool:
    is_module_patched = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", None)
    return is_module_patched is not None and bool(is_module_patched("threading"))


if not TYPE_CHECKING:
    SimpleQueue = _original("queue", "SimpleQueue")


def new_lock() -> LockType:
    """A lock between real threads."""
    if not _patched():  # every waiting view makes one
        return _thread.allocate_lock()
    lock: LockType = _original("_thread", "allocate_lock")()
    return lock


def start_thread(target: Callable[[], None], name: str, *, runs_app_code: bool = False) -> None:
    """Run target on a daemon thread of the operating system, in an empty ``contextvars.Context``.

    All threads of the package are started here. ``runs_app_code``: items, callbacks or receivers run there,
    and programs that they start inherit its signal mask; every other one is a service thread, and blocks the
    signals that stop a process. Raises RuntimeError if there is no thread to be had.
    """
    run = _made_ours(target, is_service=not runs_app_code)
    with blocked(current_mask()):  # here, for a thread that began without could get a signal at once
        if _patched():
            _original("_thread", "start_new_thread")(run, ())
        else:
            # Else whoever follows new threads (Sentry, OpenTelemetry) would give this one, which serves all
            # visitors, the user and the trace of the request that happens to start it.
            Context().run(threading.Thread(target=run, name=name, daemon=True).start)


def start_thread_in_handler(target: Callable[[], None]) -> None:
    """Run target on a service thread; fit for a signal handler, for it takes none of threading's locks."""
    with blocked(current_mask()):
        _original("_thread", "start_new_thread")(_made_ours(target, is_service=True), ())


def _made_ours(target: Callable[[], None], *, is_service: bool) -> Callable[[], None]:
    """What a thread of ours runs. It begins with the stop signals blocked."""
    usual = _service_threads.get(_get_ident())
    if usual is None:
        usual = current_mask()

    def run() -> None:
        ident = _get_ident()
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
    return _get_ident() in _service_threads


def _get_ident() -> int:
    ident: int = _original("_thread", "get_ident")()
    return ident


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
        """Wait up to timeout seconds (None: without limit), any number of them; says whether it is open."""
        if timeout is not None:
            timeout = bounded(timeout)
        if _patched() and _get_ident() not in _own_threads:
            opened = self._wait_in_greenlet(timeout)
        elif timeout is None or timeout <= _LONGEST_WAIT:
            opened = self._lock.acquire(timeout=-1 if timeout is None else timeout)
        else:
            end = time.monotonic() + timeout
            while not (opened := self._lock.acquire(timeout=_LONGEST_WAIT)) and time.monotonic() < end:
                pass
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


os.register_at_fork(after_in_child=_service_threads.clear)  # they are the parent's
