"""Long items, one in memory and one durable: what becomes of them when a worker stops, or is killed."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import time
from contextlib import suppress
from typing import Any

from flask import Blueprint, Flask, abort, after_this_request, redirect, render_template, request, url_for
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from flask_background import WorkItem, current_item
from flask_background.signals import item_finished

from . import records
from .extensions import background
from .items import Shown, end_if_asked
from .status import look_up

bp = Blueprint("grace", __name__, url_prefix="/grace")

SHORTEST, LONGEST = 5, 120
AT_ONCE = 8
ENDED_SHOWN = 4


@background.task
async def stay_in_memory(seconds: int) -> None:
    """An item that its process alone knows, and that ends with it."""
    await take_a_while(seconds)


@background.task(durable=True)
async def stay_in_the_journal(seconds: int) -> None:
    """An item that is run again, by another process, when its own is killed."""
    await take_a_while(seconds)


async def take_a_while(seconds: int) -> None:
    """Take some seconds; end early if asked to, or if time runs out."""
    began = time.monotonic()
    try:
        while (spent := time.monotonic() - began) < seconds:
            report(int(spent), seconds)
            end_if_asked(needed=seconds - spent)
            await asyncio.sleep(0.25)
        report(seconds, seconds)
    finally:
        records.keep(current_item)


def report(spent: int, seconds: int) -> None:
    """Say how far the item is, and have other workers know it, too."""
    text = f"{spent} of {seconds} seconds"
    current_item.report_progress(spent, seconds, text)
    records.keep(current_item)
    if records.is_asked_to_end(current_item.id):  # on a page of another worker
        current_item.cancel()


KINDS = {"memory": [stay_in_memory], "durable": [stay_in_the_journal]}
KINDS["both"] = KINDS["memory"] + KINDS["durable"]


@bp.record_once
def listen(setup: BlueprintSetupState) -> None:
    """Have the last word of an item in memory on record too."""
    item_finished.connect(keep_the_end, setup.app)


def keep_the_end(app: Flask, item: WorkItem[Any]) -> None:
    """Write down how an item in memory ended; the process may be gone before anybody asks it."""
    if item.task_name == stay_in_memory.name:
        with app.app_context():
            records.keep(item)


@bp.get("")
def index() -> str:
    """Show the long items of all workers, and of those before them."""
    return page()


@bp.post("")
def start() -> ResponseReturnValue:
    """Start a long item, or one of each kind."""
    seconds = request.form.get("seconds", type=int)
    if seconds is None or not SHORTEST <= seconds <= LONGEST:
        return page(f"Please choose from {SHORTEST} to {LONGEST} seconds."), 400
    tasks = KINDS.get(request.form.get("kind", "both"))
    if tasks is None:
        return page("Please choose one of the kinds."), 400
    running, _ = long_items()
    if len(running) + len(tasks) > AT_ONCE:
        return page("Enough of them are running. Please cancel one."), 429
    for task in tasks:
        records.expect(task.enqueue(seconds))
    return redirect(url_for(".index"), 303)


@bp.post("/<item_id>/cancel")
def cancel(item_id: str) -> ResponseReturnValue:
    """Ask an item to end, whichever worker runs it."""
    shown = look_up(item_id)
    if shown.get("task") not in {task.name for task in KINDS["both"]}:
        abort(404, "There is no such item: it ended long ago.")
    item = background.get(item_id)
    if item is not None:
        item.cancel()
    elif not shown["final"]:
        records.ask_to_end(item_id)  # it is in another worker's memory
    return redirect(url_for(".index"), 303)


@bp.post("/kill")
def kill() -> ResponseReturnValue:
    """Kill the worker that runs the newest durable item, or else this one."""
    refuse_strangers()
    running, _ = long_items()
    victim = find_victim(running) or os.getpid()
    if victim != os.getpid():
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGKILL)
        return redirect(url_for(".index"), 303)
    send_after_the_answer(signal.SIGKILL, victim)
    # A redirect is followed at once, perhaps to this worker: it still listens.
    later = {"Refresh": f"1; url={url_for('.index')}"}
    return render_template("killed.html"), later


@bp.post("/reload")
def reload() -> ResponseReturnValue:
    """Have gunicorn replace its workers, as a deploy does."""
    refuse_strangers()
    send_after_the_answer(signal.SIGHUP, os.getppid())
    return redirect(url_for(".index"), 303)


def send_after_the_answer(number: signal.Signals, pid: int) -> None:
    """Signal a process once the browser has this answer, which may come from that very process."""

    @after_this_request
    def send_then(response: Response) -> Response:
        response.call_on_close(lambda: os.kill(pid, number))
        return response


def refuse_strangers() -> None:
    """Let nobody stop processes but those who sit at this machine, where gunicorn runs."""
    if not (is_under_gunicorn() and is_local()):
        abort(403, "Only a browser on the machine of the demo may stop its workers, and only under gunicorn.")


def is_under_gunicorn() -> bool:
    """Whether this process is a gunicorn worker, so that its parent is gunicorn's master."""
    return str(request.environ.get("SERVER_SOFTWARE", "")).startswith("gunicorn")


def is_local() -> bool:
    """Whether the visitor is on this machine. A proxy on this machine speaks for somebody else."""
    proxied = {"X-Forwarded-For", "Forwarded", "X-Real-IP"} & set(request.headers.keys())
    return not proxied and ipaddress.ip_address(request.remote_addr or "0.0.0.0").is_loopback


def find_victim(running: list[Shown]) -> int | None:
    """The process that runs the newest durable item; None if there is no such item."""
    return next((item["pid"] for item in running if item["durable"] and item["pid"]), None)


def page(error: str | None = None) -> str:
    """Show the form, the items that run, and the latest of the others."""
    running, ended = long_items()
    return render_template(
        "grace.html",
        error=error,
        items=running + ended[:ENDED_SHOWN],
        victim=find_victim(running),
        shortest=SHORTEST,
        longest=LONGEST,
        gunicorn=is_under_gunicorn(),
        local=is_local(),
        functions=[start, stay_in_memory, stay_in_the_journal, take_a_while, report, kill, reload],
    )


def long_items() -> tuple[list[Shown], list[Shown]]:
    """The items that run, here or in another worker, and those that ended; newest first."""
    known = [item for item_id in records.latest() if (item := look_up(item_id))["status"] != "unknown"]
    for item in known:
        item["durable"] = item["task"] == stay_in_the_journal.name
    newest = sorted(known, key=lambda item: item["enqueued"], reverse=True)
    return [i for i in newest if not i["final"]], [i for i in newest if i["final"]]
