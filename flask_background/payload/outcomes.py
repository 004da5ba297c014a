"""The text form of an item's progress, result and error, for other processes to read."""

from __future__ import annotations

import json
from typing import Any

from flask_background.core.odd_errors import is_from_signal, text_of, trace_of
from flask_background.core.status import Progress
from flask_background.errors import ItemFailedError, ResultLostError
from flask_background.payload import data


def result_as_data(value: Any, max_bytes: int) -> str:
    """Return a result as text. If the result is not data, or too large, the text says so instead."""
    try:
        return data.dump(value, "the result", max_bytes=max_bytes)
    except BaseException as error:  # another thread may be changing the result; odd values may raise anything
        if is_from_signal(error):
            raise
        return json.dumps({_LOST: _cut(text_of(error), max_bytes)})


_LOST = "flask_background.lost"


def error_as_data(error: BaseException, max_bytes: int) -> str:
    """Return an exception as text of about max_bytes at most, with its traceback; a cut leaves a note."""
    kind = type(error)
    return json.dumps(
        {
            "type": _cut(f"{kind.__module__}.{kind.__qualname__}", max_bytes // 8),
            "message": _cut(text_of(error), max_bytes // 4),
            "trace": _cut(trace_of(error), max_bytes // 2),
        }
    )


def progress_as_data(progress: Progress, max_bytes: int) -> str:
    """Return a progress as text; its numbers become floats, and its message becomes a string.

    A message of more than max_bytes is cut, with a note.
    """
    done, total, message = progress
    text = None if message is None else _cut(text_of(message), max_bytes)
    return json.dumps([done, total, text], default=_number_of)


def _cut(text: str, max_bytes: int) -> str:
    """Return as much of a text as fits max_bytes in JSON, with a note if the text was cut."""
    each = 1 if text.isascii() else 6  # a character in JSON, at most; a pair of surrogates takes twice that
    if len(text) * each <= max_bytes:
        return text
    kept = max_bytes // each
    return f"{text[:kept]}... (cut: BACKGROUND_MAX_PAYLOAD allows no more of {len(text):,} characters)"


def _number_of(value: Any) -> float | str:
    try:
        return float(value)
    except Exception:
        return text_of(value)


def result_of(text: str) -> tuple[Any, BaseException | None]:
    """Return the result from its text, or a ResultLostError that says why it was not kept."""
    value = data.load(text)
    if isinstance(value, dict) and value.keys() == {_LOST}:
        return None, ResultLostError(value[_LOST])
    return value, None


def error_of(text: str, name: str) -> ItemFailedError:
    """Return an ItemFailedError for the exception of the item of this name in another process."""
    what = json.loads(text)
    failed = ItemFailedError(f"{name} failed with {what['type']}: {what['message']}")
    failed.add_note(what["trace"])
    return failed


def error_line(text: str) -> str:
    """Return the type and the message of an error from its text; the text itself if it is not readable."""
    return error_and_trace(text)[0]


def error_and_trace(text: str) -> tuple[str, str | None]:
    """Return the type and message of an error, and its traceback; raises nothing."""
    try:
        what = json.loads(text)
        kind, message, trace = what["type"], what["message"], what["trace"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text, None
    return described(str(kind), str(message)), str(trace)


def described(kind: str, message: str) -> str:
    """Return a type and a message as Python prints them; a builtin's type has no module."""
    name = kind.removeprefix("builtins.")
    return f"{name}: {message}" if message else name


def progress_of(text: str) -> Progress:
    """Return the progress from its text."""
    return Progress(*json.loads(text))


def parked_error(item_id: str, task: str, reason: str | None) -> ItemFailedError:
    """Return the error of a parked item: a durable item that no process can run until an operator acts."""
    return ItemFailedError(
        f"item {item_id} ({task}) was parked: {reason}. When the cause is fixed, `flask background retry"
        f" {item_id}` runs it again"
    )
