"""Items as pages show them: the JSON that the pages poll, and the records that outlive a worker."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from flask_background import CancelReason, Status, WorkItem, current_item

from .extensions import background

bp = Blueprint("items", __name__, url_prefix="/items")

MAX_ASKED = 100
RECORDS_KEPT = 20
STALE_SECONDS = 10.0

LABELS = {
    Status.QUEUED: "Waiting",
    Status.RUNNING: "Running",
    Status.SUCCEEDED: "Done",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
    Status.INTERRUPTED: "Interrupted",
}

Shown = dict[str, Any]  # an item as pages and JSON see it


class VisitorError(Exception):
    """A failure whose text is meant for the visitor."""


@bp.get("")
def index() -> ResponseReturnValue:
    """Say how the items stand whose ids are asked for: ``/items?id=…&id=…``."""
    ids = request.args.getlist("id")[:MAX_ASKED]
    return {"pid": os.getpid(), "items": [look_up(item_id) for item_id in ids]}


def describe(item: WorkItem[Any]) -> Shown:
    """Say how an item stands, in JSON values."""
    status, token, progress = item.status, item.token, item.progress
    return {
        "id": item.id,
        "status": status.value,
        "label": LABELS[status],
        "final": status.is_final,
        "enqueued": item.enqueued_at.timestamp(),
        "progress": progress and progress._asdict(),
        "error": failure(item, status),
        "token": {
            "cancelled": token.cancelled,
            "reason": token.reason and token.reason.value,
            "remaining": token.remaining,
        },
        "pid": os.getpid(),
    }


def failure(item: WorkItem[Any], status: Status) -> str | None:
    """Say to a visitor why an item did not succeed."""
    match status:
        case Status.CANCELLED:
            return "It was cancelled."
        case Status.INTERRUPTED:
            return "The server stopped before it was done. Please try again."
        case Status.FAILED:
            error = item.exception(1)  # it is told a moment after the status
            # Other errors may tell of paths and hosts, which are for the log only.
            return str(error) if isinstance(error, VisitorError) else "Something went wrong here."
        case _:
            return None


def end_if_asked(needed: float) -> None:
    """End the current item if somebody asked for it, or if a stop leaves it less time than it needs.

    A stop alone is no reason: what takes another second is better finished in the grace period.
    """
    token = current_item.token
    enough = token.remaining is None or token.remaining >= needed
    if not (token.reason is CancelReason.SHUTDOWN and enough):
        token.raise_if_cancelled()


def look_up(item_id: str) -> Shown:
    """Find an item here, or what it last said of itself in another worker."""
    if item := background.get(item_id):
        return describe(item)
    if re.fullmatch("[0-9a-f]{24}", item_id) and (record := read(path_of(item_id))):
        return record
    return {"id": item_id, "status": "unknown", "label": "Unknown", "final": True}


# An item is known to its own process alone. One that the next worker shall show too, while it uses
# the grace period of this one, writes down now and then how it stands.


def records() -> Path:
    """The folder of the records."""
    return Path(current_app.instance_path, "records")


def path_of(item_id: str) -> Path:
    """Where an item's record is."""
    return records() / f"{item_id}.json"


def keep(item: WorkItem[Any]) -> None:
    """Write down how an item stands. Readers see the record before or after, never half of it."""
    path = path_of(item.id)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(describe(item)))
    draft.replace(path)


def read(path: Path) -> Shown | None:
    """Read a record; None if there is none."""
    try:
        written = path.stat().st_mtime
        record: Shown = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not record["final"] and time.time() - written > STALE_SECONDS:
        # It said something several times a second: its process must be gone.
        status = Status.INTERRUPTED
        record |= {"status": status.value, "label": LABELS[status], "final": True}
        record["error"] = "Its process ended before it did."
    return record


def written_at(path: Path) -> float:
    """When a record was written; long ago if another thread has just deleted it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def kept() -> list[Shown]:
    """The newest records; older ones are deleted."""
    paths = sorted(records().glob("*.json"), key=written_at, reverse=True)
    for path in paths[RECORDS_KEPT:]:
        path.unlink(missing_ok=True)
    return [record for path in paths[:RECORDS_KEPT] if (record := read(path))]
