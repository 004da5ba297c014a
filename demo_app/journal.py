"""All items that the journal knows, and those in this worker's memory."""

from __future__ import annotations

from flask import Blueprint, current_app, render_template, request

from flask_background import Status

from .extensions import background
from .items import LABELS, describe

bp = Blueprint("journal", __name__, url_prefix="/journal")

SHOWN = 100


@bp.get("")
def index() -> str:
    """Show the newest items, of one status or of any."""
    wanted = request.args.get("status", "")
    status = Status(wanted) if wanted in set(Status) else None
    items = sorted(background.items(status=status), key=lambda item: item.enqueued_at, reverse=True)
    return render_template(
        "journal.html",
        items=[describe(item) | {"at": item.enqueued_at} for item in items[:SHOWN]],
        labels=LABELS,
        wanted=status,
        on_celery=current_app.config.get("BACKGROUND_BACKEND") == "celery",
        functions=[index],
    )
