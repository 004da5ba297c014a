"""The signals that stop a process: the threads that may get them, and functions that they must not interrupt.

The kernel may give a signal to any thread that does not block it. Python's own handlers run on the main
thread, whatever thread got the signal, but a host may have handlers in C: uWSGI ends the interpreter on the
thread that got TERM, and hangs there if that is not its main thread. So threads without app code block these
signals. Threads with app code must not, because a program that an item starts inherits the mask of its
thread, and could not be ended by TERM.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


def current_mask() -> set[int]:
    """Return the signals that this thread blocks."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def blocks_everywhere() -> bool:
    """Return whether the threads that run the app's code block these signals, too.

    This is so under uWSGI, which blocks the signals in all threads that run views but the first.
    """
    return "uwsgi" in sys.modules


@contextmanager
def blocked(before: Iterable[int]) -> Iterator[None]:
    """Block the stop signals in this thread. ``before``: the signals that the thread blocks otherwise."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:  # runs even if a handler raised in the first line, when the mask was already changed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_uninterruptible: set[CodeType] = set()
_interruptible_waits: set[CodeType] = set()


def uninterruptible(func: F) -> F:
    """Mark a function that the handler of a stop signal must not interrupt with an exception."""
    _uninterruptible.add(func.__code__)
    return func


def interruptible_wait(func: F) -> F:
    """Mark a function that only waits, perhaps for long: a stop signal may interrupt it under any caller."""
    _interruptible_waits.add(func.__code__)
    return func


def may_raise(frame: FrameType | None) -> bool:
    """Return whether a signal's handler may raise an exception through this frame and its callers."""
    while frame is not None:
        if frame.f_code in _interruptible_waits:
            return True
        if frame.f_code in _uninterruptible:
            return False
        frame = frame.f_back
    return True
