"""A blueprint for an app's visitors: how one item stands, as JSON, and an element that shows it on a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from flask import Blueprint, Response, current_app, make_response, request
from flask.typing import ResponseReturnValue

from flask_background import Background, Progress, Status, WorkItem
from flask_background.core.odd_errors import text_of
from flask_background.errors import BackgroundError, RecordGoneError

Item = WorkItem[Any]

_ELEMENT = Path(__file__).parent / "element" / "background-progress.js"
# When to ask again, in seconds: other processes see the progress of a durable item within about a second.
_ASK_AGAIN = 1


def create_status(
    *,
    allow: Callable[[Item], bool | ResponseReturnValue | None] | None = None,
    show_result: bool | Callable[[Item], object] = False,
    show_error: bool | Callable[[Item], object] = False,
    name: str = "background_status",
) -> Blueprint:
    """Return a blueprint that answers ``/<item_id>`` with an item's status and progress as JSON.

    Whoever has the id may ask, because ids cannot be guessed. ``allow``: a function that takes the item, for
    more than that. It returns True; None or False, and the item is answered as if it were not known; or a
    response. ``show_result`` and ``show_error``: True to send the return value of an item that succeeded,
    and the error of one that has not; or a function that takes the item, and returns what is sent instead.
    Both have to be JSON. ``name``: the blueprint's, which differs if an app has several.

    The blueprint also serves ``/progress.js``, the element ``<background-progress item="...">``.
    """
    blueprint = Blueprint(name, __name__)

    @blueprint.get("/progress.js", endpoint="element")
    def send_element() -> Response:
        response = Response(_ELEMENT.read_bytes(), mimetype="text/javascript")
        response.headers["Cache-Control"] = "no-cache"  # browsers keep it, and ask whether it has changed
        response.add_etag()
        response.make_conditional(request)
        return response

    @blueprint.get("/<item_id>", endpoint="show")
    def show(item_id: str) -> ResponseReturnValue:
        background: Background = current_app.extensions["background"]
        item = background.get(item_id)
        if item is None or not (allowed := True if allow is None else allow(item)):
            return _unknown()
        if allowed is not True:
            return _never_stored(make_response(allowed))
        try:
            status = item.status  # first: after an item's end nothing of it changes
            values = _values_of(item, status)
            if status is Status.SUCCEEDED:
                values |= _shown("result", show_result, item, _result_of)
            elif status.is_final:
                values |= _shown("error", show_error, item, _error_of)
        except RecordGoneError:
            return _unknown()
        response = _never_stored(_json_response(item, values))
        if not status.is_final:
            response.headers["Retry-After"] = str(_ASK_AGAIN)
        return response

    return blueprint


def _unknown() -> Response:
    return _never_stored(make_response({"status": "unknown"}, 404))


def _never_stored(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


def _json_response(item: Item, values: dict[str, object]) -> Response:
    try:
        return make_response(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"the result or error of item {item.id} ({item.task_name}) is not JSON ({text_of(error)}): give"
            " create_status a function as show_result or show_error, which returns JSON"
        ) from error


def _values_of(item: Item, status: Status) -> dict[str, object]:
    """Return what everybody may see who may see the item."""
    return {
        "id": item.id,
        "status": status,
        "is_final": status.is_final,
        "progress": _progress_of(item.progress),
        "attempt": item.attempt,
        "enqueued_at": _moment(item.enqueued_at),
        "started_at": _moment(item.started_at),
        "finished_at": _moment(item.finished_at),
    }


def _progress_of(progress: Progress | None) -> dict[str, object] | None:
    if progress is None:
        return None
    done, total, message = progress
    return {
        "done": _number(done),
        "total": _number(total),
        "message": None if message is None else text_of(message),
    }


def _number(value: object) -> float | None:
    """Return a number that JSON has; an item may report anything."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:
        return None
    return (int(number) if number.is_integer() else number) if math.isfinite(number) else None


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")


def _shown(
    name: Literal["result", "error"],
    show: bool | Callable[[Item], object],
    item: Item,
    otherwise: Callable[[Item], object],
) -> dict[str, object]:
    if show is False:
        return {}
    return {name: otherwise(item) if show is True else show(item)}


def _result_of(item: Item) -> object:
    return item.result(0)


def _error_of(item: Item) -> str:
    """Return the error's text: the same in the process that ran the item and in any other."""
    error = item.exception(0)
    if error is None or isinstance(error, BackgroundError):
        return text_of(error)
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"item {item.id} ({item.task_name}) failed with {name}: {text_of(error)}"
