"""What an item has reported, returned and raised, as text that another process can read, and back."""

from __future__ import annotations

import json
from typing import Any

from flask_background.core.odd_errors import is_from_signal, text_of, trace_of
from flask_background.core.status import Progress
from flask_background.errors import ItemFailedError, ResultLostError
from flask_background.payload import data


def result_as_data(value: Any, max_bytes: int) -> str:
    """What an item returned, as text. What is no data, or too large, is not kept: the text says so."""
    try:
        return data.dump(value, "the result", max_bytes=max_bytes)
    except BaseException as error:  # another thread may be changing it, too; and odd values raise odd things
        if is_from_signal(error):
            raise
        return json.dumps({_LOST: text_of(error)})


_LOST = "flask_background.lost"


def error_as_data(error: BaseException) -> str:
    """An exception as text, with its traceback."""
    kind = type(error)
    return json.dumps(
        {
            "type": f"{kind.__module__}.{kind.__qualname__}",
            "message": text_of(error),
            "trace": trace_of(error),
        }
    )


def progress_as_data(progress: Progress) -> str:
    """A progress as text; other numbers are made floats, and a message that is not a string is made one."""
    done, total, message = progress
    return json.dumps([done, total, None if message is None else text_of(message)], default=_number_of)


def _number_of(value: Any) -> float | str:
    try:
        return float(value)
    except Exception:
        return text_of(value)


def result_of(text: str) -> tuple[Any, BaseException | None]:
    """What was returned, or the ResultLostError that says why it was not kept."""
    value = data.load(text)
    if isinstance(value, dict) and value.keys() == {_LOST}:
        return None, ResultLostError(value[_LOST])
    return value, None


def error_of(text: str, name: str) -> ItemFailedError:
    """What stands here for the exception that the item of this name has raised elsewhere."""
    what = json.loads(text)
    failed = ItemFailedError(f"{name} failed with {what['type']}: {what['message']}")
    failed.add_note(what["trace"])
    return failed


def progress_of(text: str) -> Progress:
    """What such a text was made of."""
    return Progress(*json.loads(text))


def parked_error(item_id: str, task: str, reason: str | None) -> ItemFailedError:
    """The error of a durable item that nobody can run; somebody has to look at it."""
    return ItemFailedError(
        f"item {item_id} ({task}) was parked: {reason}. When that is mended, `flask background retry"
        f" {item_id}` runs it again"
    )
