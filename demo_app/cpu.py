"""Items that burn CPU, on threads or in child processes, and what that does to a page's answers."""

from __future__ import annotations

import os

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_background import current_item

from . import recent
from .extensions import background
from .items import end_if_asked

bp = Blueprint("cpu", __name__, url_prefix="/cpu")

AT_ONCE = 8
STARTED = 2  # items by one click, as there are two workers
LIMIT = 450_000  # a second or two of one CPU
STEP = LIMIT // 30
SECONDS_NEEDED = 5


@background.task(durable=True)
def count_on_thread() -> None:
    """Count primes on a thread of a worker, whose views share the interpreter with the item."""
    count_primes()


@background.task(durable=True, executor="children")
def count_in_child() -> None:
    """Count primes in a child process: the views have the worker to themselves."""
    count_primes()


def count_primes() -> None:
    """Count the primes below the limit, the simple way."""
    found = 0
    for number in range(2, LIMIT):
        if number % STEP == 0:
            current_item.report_progress(number // STEP, LIMIT // STEP, f"{found:,} primes below {number:,}")
            end_if_asked(SECONDS_NEEDED)
        found += is_prime(number)


def is_prime(number: int) -> bool:
    """Whether a number is a prime."""
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return True


TASKS = {"threads": count_on_thread, "children": count_in_child}


@bp.get("")
def index() -> str:
    """Show the buttons, and the latest items."""
    return page()


@bp.post("")
def start() -> ResponseReturnValue:
    """Start as many items as there are workers."""
    task = TASKS.get(request.form.get("where", ""))
    if task is None:
        return page("Please choose threads or child processes."), 400
    if sum(not item["final"] for item in recent.items("cpu")) > AT_ONCE - STARTED:
        return page("Enough of them are running. Please wait for some to end."), 429
    for _ in range(STARTED):
        recent.add("cpu", task.enqueue(), "In a child process" if task is count_in_child else "On a thread")
    return redirect(url_for(".index"), 303)


@bp.get("/ping")
def ping() -> ResponseReturnValue:
    """Answer at once: the page times this."""
    return "", 204


def page(error: str | None = None) -> str:
    """Show the form, and the latest items."""
    return render_template(
        "cpu.html",
        error=error,
        items=recent.items("cpu"),
        cores=os.cpu_count(),
        functions=[start, count_on_thread, count_in_child, count_primes, ping],
    )
