"""The start: the same work in the background and in the view, and how long each answer takes."""

from __future__ import annotations

import time

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_background import current_item

from .extensions import background
from .status import look_up

bp = Blueprint("home", __name__)

STEPS = 4


@background.task(durable=True)
def call_slow_service() -> None:
    """Take two seconds, as a mail server, a bank or a printer may."""
    for done in range(STEPS):
        current_item.report_progress(done, STEPS, f"Step {done + 1} of {STEPS}")
        time.sleep(0.47)
    current_item.report_progress(STEPS, STEPS, f"All {STEPS} steps")


@bp.before_request
def start_clock() -> None:
    """Note when the request came."""
    g.began = time.perf_counter()


@bp.get("/")
def index() -> str:
    """Show the two buttons, and what came of the last click."""
    item = look_up(item_id) if (item_id := request.args.get("item")) else None
    return render_template(
        "home.html",
        item=item,
        answered=request.args.get("answered", type=float),
        functions=[in_background, in_view, call_slow_service],
    )


@bp.post("/in-background")
def in_background() -> ResponseReturnValue:
    """Hand the work over, and answer."""
    item = call_slow_service.enqueue()
    answered = milliseconds()
    return redirect(url_for(".index", item=item.id, answered=answered), 303)


@bp.post("/in-view")
def in_view() -> ResponseReturnValue:
    """Do the work first: the same function, as an ordinary call."""
    call_slow_service()
    return redirect(url_for(".index", answered=milliseconds()), 303)


def milliseconds() -> float:
    """How long the view has taken for its answer."""
    return round((time.perf_counter() - float(g.began)) * 1000, 1)
