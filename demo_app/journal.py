"""All items that the journal knows, and those in this worker's memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import Blueprint, current_app, render_template, request

from flask_background import Status, WorkItem

from .extensions import background
from .items import LABELS
from .status import look_up
from .terminal import ON_SCHEDULE

bp = Blueprint("journal", __name__, url_prefix="/journal")

SHOWN = 100


@bp.get("")
def index() -> str:
    """Show the newest items, of one status or of any."""
    wanted = request.args.get("status", "")
    status = Status(wanted) if wanted in set(Status) else None
    newest = islice(newest_first(background.items(status=status)), SHOWN)
    items = [look_up(item.id) | {"at": item.enqueued_at} for item in newest]
    return render_template(
        "journal.html",
        items=[item for item in items if item["status"] != "unknown"],
        labels=LABELS,
        wanted=status,
        on_celery=current_app.config.get("BACKGROUND_BACKEND") == "celery",
        functions=[index, newest_first],
    )


def newest_first(items: list[WorkItem[Any]]) -> Iterator[WorkItem[Any]]:
    """Sort items; a task on a schedule is there with its latest run alone."""
    seen = set()
    for item in sorted(items, key=lambda item: item.enqueued_at, reverse=True):
        if item.task_name not in seen:
            yield item
        if item.task_name in ON_SCHEDULE:
            seen.add(item.task_name)
