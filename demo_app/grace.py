"""A long item: its progress, its token, and what becomes of both when the server stops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from flask import Blueprint, Flask, abort, redirect, render_template, request, url_for
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue

from flask_background import WorkItem, current_item
from flask_background.signals import item_finished

from .extensions import background
from .items import Shown, describe, end_if_asked, keep, kept

bp = Blueprint("grace", __name__, url_prefix="/grace")

SHORTEST, LONGEST = 5, 120
AT_ONCE = 8
ENDED_SHOWN = 2


@background.task
async def take_a_while(seconds: int) -> None:
    """Take some seconds. End early if asked to, or if the grace period is too short."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        current_item.report_progress(int(spent), seconds, f"{int(spent)} of {seconds} seconds")
        keep(current_item)
        end_if_asked(needed=seconds - spent)
        await asyncio.sleep(0.25)
    current_item.report_progress(seconds, seconds, f"{seconds} of {seconds} seconds")


@bp.record_once
def listen(setup: BlueprintSetupState) -> None:
    """Have the last word of an item on record too."""
    item_finished.connect(keep_the_end, setup.app)


def keep_the_end(app: Flask, item: WorkItem[Any]) -> None:
    """Write down how a long item ended; the process may be gone before anybody asks it."""
    if item.task_name == take_a_while.name:
        with app.app_context():
            keep(item)


@bp.get("")
def index() -> str:
    """Show the long items of this worker, and those that the one before it still runs."""
    return page()


@bp.post("")
def start() -> ResponseReturnValue:
    """Start a long item."""
    seconds = request.form.get("seconds", type=int)
    if seconds is None or not SHORTEST <= seconds <= LONGEST:
        return page(f"Please choose from {SHORTEST} to {LONGEST} seconds."), 400
    running, _ = long_items()
    if len(running) >= AT_ONCE:
        return page("Enough of them are running. Please cancel one, or wait."), 429
    take_a_while.enqueue(seconds)
    return redirect(url_for(".index"), 303)


@bp.post("/<item_id>/cancel")
def cancel(item_id: str) -> ResponseReturnValue:
    """Ask an item to end. Only the process that runs it can."""
    item = background.get(item_id)
    if item is None or item.task_name != take_a_while.name:
        abort(404, "This process does not know that item: it ended, or an earlier worker runs it.")
    item.cancel()
    return redirect(url_for(".index"), 303)


def page(error: str | None = None) -> str:
    """Show the form, the items that run, and the latest of the others."""
    running, ended = long_items()
    return render_template(
        "grace.html",
        error=error,
        items=running + ended[:ENDED_SHOWN],
        shortest=SHORTEST,
        longest=LONGEST,
        gunicorn=request.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"),
        functions=[start, take_a_while],
    )


def long_items() -> tuple[list[Shown], list[Shown]]:
    """The items that run, here or in an earlier worker, and those that ended; newest first."""
    known = {record["id"]: record for record in kept()}
    for item in background.items():
        if item.task_name == take_a_while.name:
            known[item.id] = describe(item)
    newest = sorted(known.values(), key=lambda item: item["enqueued"], reverse=True)
    return [i for i in newest if not i["final"]], [i for i in newest if i["final"]]
