"""The commands that show and change durable items: list, show, cancel, retry, purge and stats."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flask_background.cli.base import command, json_option
from flask_background.cli.formatting import fields, row, say, table
from flask_background.core.status import Status
from flask_background.durable.journal import outbox, queries, statements

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.durable.backend import DurableBackend
    from flask_background.durable.journal.row import ItemRow

# The queries for items that run here, and for items that wait to be forwarded.
_ALL: tuple[Callable[..., Any], ...] = queries.rows, outbox.rows

_statuses = click.Choice([str(status) for status in Status if status is not Status.INTERRUPTED])


@command("list")
@click.option("--status", type=_statuses, help="Show only items with this status.")
@click.option("--task", help="Show only items of this task.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="How many items to show, the latest ones.",
)
@json_option
def list_(state: BackgroundState, status: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """List the items that were enqueued last."""
    wanted = None if status is None else Status(status)
    found = [_read(state, partial(query, status=wanted, task=task, limit=limit)) for query in _ALL]
    entries = sorted((*found[0], *(waiting.as_item() for waiting in found[1])), key=_enqueued)[-limit:]
    if as_json:
        click.echo(json.dumps([fields(entry) for entry in entries]))
    else:
        table(("id", "status", "attempt", "age", "task"), map(row, entries))


@command("show")
@click.argument("item_id", metavar="ID")
@json_option
def show(state: BackgroundState, item_id: str, as_json: bool) -> None:
    """Show one item."""
    entry = _entry(state, item_id)
    if as_json:
        click.echo(json.dumps(fields(entry)))
        return
    for name, value in fields(entry).items():
        if value is not None:
            say(f"{name + ':':<13}{value}")


@command("cancel")
@click.argument("item_id", metavar="ID")
@json_option
def cancel(state: BackgroundState, item_id: str, as_json: bool) -> None:
    """Cancel a queued item, or ask a running item to end."""
    entry = _entry(state, item_id)
    answer: str | None = state.durable.outbox.cancel(item_id)
    if answer is None:
        item = state.durable.handles.of_row(entry)
        if item.cancel():
            answer = "cancelled" if item.status is Status.CANCELLED else "asked"
    _answer(item_id, answer, "it has ended", as_json)


@command("retry")
@click.argument("item_id", metavar="ID")
@json_option
def retry(state: BackgroundState, item_id: str, as_json: bool) -> None:
    """Run an item again after it failed, was parked or was cancelled."""
    entry = _entry(state, item_id)
    writer = state.durable.session.writer
    done = writer.write(partial(statements.retry, item_id=item_id, now=time.time())) or writer.write(
        partial(outbox.retry, item_id=item_id)
    )
    state.durable.session.wake_all()
    _answer(item_id, "queued" if done else None, f"it is {entry.status}", as_json)


@command("purge")
@click.option(
    "--status",
    "statuses",
    type=_statuses,
    multiple=True,
    help="Delete only items with this status; may be repeated.",
)
@click.confirmation_option(prompt="Delete these ended items?")
@json_option
def purge(state: BackgroundState, statuses: tuple[str, ...], as_json: bool) -> None:
    """Delete items that have ended."""
    wanted = [Status(status) for status in statuses] or list(Status)
    count = state.durable.maintenance.removal.purge(wanted)
    click.echo(json.dumps({"purged": count}) if as_json else f"{count} forgotten")


@command("stats")
@json_option
def stats(state: BackgroundState, as_json: bool) -> None:
    """Show how many items there are, by status."""
    found = Counter(_read(state, queries.stats)) + Counter(_read(state, outbox.stats))
    counts = {str(status): found[status] for status in Status if status is not Status.INTERRUPTED}
    if as_json:
        click.echo(json.dumps(counts))
    else:
        table(("status", "items"), ((name, str(count)) for name, count in counts.items()))


def _read(state: BackgroundState, query: Callable[..., Any]) -> Any:
    durable: DurableBackend = state.durable
    return durable.session.writer.read(query)


def _entry(state: BackgroundState, item_id: str) -> ItemRow:
    entry = state.durable.session.read_row(item_id)
    if entry is None and (waiting := state.durable.outbox.get(item_id)) is not None:
        return waiting.as_item()
    if entry is None:
        raise click.ClickException(f"the journal has no item {item_id!r}")
    return entry


def _enqueued(entry: ItemRow) -> float:
    return entry.enqueued


def _answer(item_id: str, answer: str | None, why_not: str, as_json: bool) -> None:
    if answer is None:
        raise click.ClickException(f"item {item_id}: {why_not}")
    click.echo(json.dumps({"id": item_id, "status": answer}) if as_json else f"{item_id} {answer}")
