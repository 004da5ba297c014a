"""Safe handling of the app's exceptions, which may refuse or break every operation on them.

A frozen dataclass takes no notes; ``__str__`` may raise; ``exceptions`` of a group may be a property that
fails. These functions do what is possible, so that an item ends in any case.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


def is_from_signal(error: BaseException) -> bool:
    """Return whether error may come from a signal: SystemExit or KeyboardInterrupt on the main thread."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


@contextmanager
def best_effort() -> Iterator[None]:
    """Suppress every exception raised inside, except one that may come from a signal."""
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
    """Return the text of a foreign object, or a text that names the error that ``str`` raised."""
    try:
        return str(value)
    except BaseException as error:
        if is_from_signal(error):
            raise
        return f"<{type(value).__name__} whose text raises {type(error).__name__}>"


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it, or as much of it as possible."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as trouble:
        if is_from_signal(trouble):
            raise
        kind = type(error)
        return f"{kind.__module__}.{kind.__qualname__}, whose traceback raises {type(trouble).__name__}\n"


def let_frames_go(error: BaseException) -> None:
    """Forget the variables of the frames that error has passed, so that a kept error keeps no upload."""
    for one in with_causes(error):
        with best_effort():
            traceback.clear_frames(one.__traceback__)


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error, its causes, its contexts and the members of groups, as far as possible."""
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
