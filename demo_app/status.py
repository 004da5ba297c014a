"""How items stand: the JSON that the pages poll."""

from __future__ import annotations

import os
import re

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from flask_background import Status

from . import records
from .extensions import background
from .items import Shown, describe

bp = Blueprint("status", __name__, url_prefix="/items")

MAX_ASKED = 100
UNKNOWN = {
    "status": "unknown",
    "label": "Unknown",
    "final": True,
    "error": None,
    "message": "",
    "look": "unknown",
    "took": None,
}


@bp.get("")
def index() -> ResponseReturnValue:
    """Say how the items stand whose ids are asked for: ``/items?id=…&id=…``."""
    ids = request.args.getlist("id")[:MAX_ASKED]
    return {"pid": os.getpid(), "items": [look_up(item_id) for item_id in ids]}


def look_up(item_id: str) -> Shown:
    """Say how an item stands: by the journal, or this worker's memory, or what it wrote of itself."""
    if not re.fullmatch("[0-9a-f]{24}", item_id):
        return {"id": item_id, **UNKNOWN}
    record = records.read(item_id)
    item = background.get(item_id)
    if item is not None:
        shown = describe(item)
        if record is not None:
            shown |= {key: record[key] for key in ("pid", "pids", "token")}
        if shown["status"] == Status.QUEUED.value:
            shown["pid"] = None  # that of an earlier run
    elif record is not None:
        shown = record
    else:
        return {"id": item_id, **UNKNOWN}
    # When this changes, more of the card changes than a script fills in.
    look = (shown["status"], shown["attempt"], shown["pid"], shown["token"]["reason"])
    return shown | {"look": " ".join(map(str, look))}
