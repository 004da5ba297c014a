"""The signals that stop a process: which threads they may reach, and which functions they must not break off.

The kernel may give a signal to any thread that does not block it. Python's own handlers run on the main
thread whatever thread got the signal, but not all of a host's are Python's: uWSGI ends the interpreter on the
thread that got TERM, and hangs there if that is not its main thread. So threads that run no code of the app's
block these signals. Threads that do must not: a program that an item starts inherits the mask of its thread,
and could not be ended by TERM.
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
    """The signals that this thread blocks."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def blocks_everywhere() -> bool:
    """Whether the threads that run the app's code block these signals, too.

    Under uWSGI, which does so itself in all threads that run views but the first, for programs as for us.
    """
    return "uwsgi" in sys.modules


@contextmanager
def blocked(before: Iterable[int]) -> Iterator[None]:
    """Block the stop signals in this thread; before: what it has blocked until now, and will after this."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:  # also if a handler has raised in the first line: by then the mask is changed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_uninterruptible: set[CodeType] = set()
_interruptible_waits: set[CodeType] = set()


def uninterruptible(func: F) -> F:
    """Mark a function that a stop signal's handler of ours must not raise in: it leaves nothing half done."""
    _uninterruptible.add(func.__code__)
    return func


def interruptible_wait(func: F) -> F:
    """Mark a function that only waits, and may for long: a stop signal ends it, whatever has called it."""
    _interruptible_waits.add(func.__code__)
    return func


def may_raise(frame: FrameType | None) -> bool:
    """Whether a signal's handler may raise an exception through this frame, and those that called it."""
    while frame is not None:
        if frame.f_code in _interruptible_waits:
            return True
        if frame.f_code in _uninterruptible:
            return False
        frame = frame.f_back
    return True
