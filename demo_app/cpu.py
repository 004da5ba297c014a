"""Items that burn CPU, on threads or in child processes, and what that does to a page's answers."""

from __future__ import annotations

import os

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flask_background import current_item

from . import recent
from .extensions import background
from .items import Shown, end_if_asked

bp = Blueprint("cpu", __name__, url_prefix="/cpu")

STARTED = 4  # items by one click: each of the two workers has two threads for them
LIMIT = 450_000  # a second or two of one CPU
STEP = LIMIT // 30
SECONDS_NEEDED = 5


@background.task(durable=True)
def count_on_thread() -> None:
    """Count primes on a thread, taking turns with the views of its worker."""
    count_primes()


@background.task(durable=True, executor="children")
def count_in_child() -> None:
    """Count primes in a child process, beside the worker with its views."""
    count_primes()


def count_primes() -> None:
    """Count the primes below the limit, the simple way."""
    found = 0
    for number in range(2, LIMIT):
        if number % STEP == 0:
            report(found, number)
            end_if_asked(SECONDS_NEEDED)
        found += is_prime(number)
    report(found, LIMIT)


def report(found: int, limit: int) -> None:
    """Say how far the count is."""
    text = f"{found:,} primes below {limit:,}"
    current_item.report_progress(limit // STEP, LIMIT // STEP, text)


def is_prime(number: int) -> bool:
    """Whether a number is a prime."""
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return True


TASKS = {"threads": count_on_thread, "children": count_in_child}
TITLES = {"threads": "On a thread", "children": "In a child process"}


@bp.get("")
def index() -> str:
    """Show the buttons, and the latest items."""
    return page()


@bp.post("")
def start() -> ResponseReturnValue:
    """Start some items, unless others are still running."""
    where = request.form.get("where", "")
    if where not in TASKS:
        return page("Please choose threads or child processes."), 400
    if running(recent.items("cpu")):
        return page("Please wait until these items have ended."), 429
    for _ in range(STARTED):
        recent.add("cpu", TASKS[where].enqueue(), TITLES[where])
    return redirect(url_for(".index"), 303)


@bp.get("/ping")
def ping() -> ResponseReturnValue:
    """Answer at once: the page times this."""
    return "", 204


def page(error: str | None = None) -> str:
    """Show the form, and the latest items."""
    items = recent.items("cpu")
    return render_template(
        "cpu.html",
        error=error,
        items=items,
        load=running(items),
        cores=os.cpu_count(),
        functions=[start, count_on_thread, count_in_child, count_primes, is_prime, ping],
    )


def running(items: list[Shown]) -> str | None:
    """Say where items are running now; None if all of them have ended."""
    titles = {item["name"] for item in items if not item["final"]}
    return next((where for where, title in TITLES.items() if title in titles), None)
