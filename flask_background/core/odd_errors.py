"""Dealing with what the app raises: it may refuse, or raise in its turn, whatever is done to it.

Frozen dataclasses take no notes, a ``__str__`` raises, ``exceptions`` of a group is a property that fails.
These functions do what can be done, so that an item ends in any case.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


def is_from_signal(error: BaseException) -> bool:
    """Whether error may be a signal's: SystemExit or KeyboardInterrupt, on the thread that gets those."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


@contextmanager
def best_effort() -> Iterator[None]:
    """Let nothing out that is raised inside, but for what may be a signal's."""
    try:
        yield
    except BaseException as error:
        if is_from_signal(error):
            raise


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, if it takes notes."""
    with best_effort():
        error.add_note(note)


def text_of(value: object) -> str:
    """The text of what is foreign, or one that says that it has none."""
    try:
        return str(value)
    except BaseException as error:
        if is_from_signal(error):
            raise
        return f"<{type(value).__name__} whose text raises {type(error).__name__}>"


def trace_of(error: BaseException) -> str:
    """The traceback of an error as Python prints it, or as much of it as can be had."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as trouble:
        if is_from_signal(trouble):
            raise
        kind = type(error)
        return f"{kind.__module__}.{kind.__qualname__}, whose traceback raises {type(trouble).__name__}\n"


def let_frames_go(error: BaseException) -> None:
    """Forget the variables of the frames that error has passed: a handle keeps it, not an upload."""
    for one in with_causes(error):
        with best_effort():
            traceback.clear_frames(one.__traceback__)


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes, its contexts and the members of groups, as far as they can be had."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        this = errors.pop()
        if this is None or id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        with best_effort():
            errors += (this.__cause__, this.__context__)
            if isinstance(this, BaseExceptionGroup):
                errors += this.exceptions
