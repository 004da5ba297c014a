"""The commands that show items: list and show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from flask_background.cli.base import json_option, monitor_command
from flask_background.cli.fields import details_of, json_of, print_json
from flask_background.cli.filters import selects
from flask_background.cli.formatting import Table, ago, cut, progress_text, say, span, warn
from flask_background.core.status import Progress, Status
from flask_background.monitoring.snapshots import ItemQuery

if TYPE_CHECKING:
    from datetime import datetime

    from flask_background.monitoring.monitor import Monitor
    from flask_background.monitoring.snapshots import ItemSnapshot, Page, RunSnapshot

# How many items of ``--all`` are asked for at a time.
_AT_ONCE = 500


@monitor_command("list")
@selects([status for status in Status if status is not Status.INTERRUPTED])
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many items at most."
)
@click.option("--after", metavar="CURSOR", help="Go on after the page that gave this cursor.")
@click.option("--all", "all_", is_flag=True, help="Go on to the end.")
@json_option
def list_(
    monitor: Monitor, query: ItemQuery | None, limit: int, after: str | None, all_: bool, as_json: bool
) -> None:
    """List items, those enqueued last first."""
    try:
        pages = _pages(monitor, query or ItemQuery(), limit, after, all_)
        last = _print_pages_as_json(pages) if as_json else _print_pages(pages)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from error
    if monitor.celery_error is not None:
        warn(f"Items in Celery are left out: {monitor.celery_error}")
    if last.next is not None and not as_json:
        to = last.looked_back_to
        how_far = "" if to is None else f"Looked back to {to.isoformat(' ', 'seconds')}. "
        warn(f"{how_far}There may be more: --after {last.next}")


def _pages(monitor: Monitor, query: ItemQuery, limit: int, after: str | None, all_: bool) -> Iterator[Page]:
    while True:
        page = monitor.items(query, limit=_AT_ONCE if all_ else limit, after=after)
        yield page
        after = page.next
        if after is None or not all_:
            return


def _print_pages(pages: Iterator[Page]) -> Page:
    table = Table("id", "status", "task", "attempt", "enqueued", "due", "progress", "error", "description")
    for page in pages:
        table.print(map(_row, page.items))
    return page


def _row(item: ItemSnapshot) -> tuple[str, ...]:
    due = item.due_at if item.status is Status.QUEUED else None
    return (
        item.id,
        f"{item.status} (paused)" if item.is_paused else str(item.status),
        item.task,
        str(item.attempt),
        ago(item.enqueued_at),
        ago(due),
        cut(progress_text(item.progress), 30),
        cut(item.error, 60),
        cut(item.description, 40),
    )


def _print_pages_as_json(pages: Iterator[Page]) -> Page:
    """Print the pages as one object, part by part: there may be a million items."""
    opening = '{"items": ['
    for page in pages:
        for item in page.items:
            click.echo(opening + json.dumps(json_of(item)), nl=False)
            opening = ", "
    end = {"next": page.next, "looked_back_to": json_of(page.looked_back_to)}
    click.echo(("" if opening == ", " else opening) + "], " + json.dumps(end)[1:])
    return page


@monitor_command("show")
@click.argument("item_id", metavar="ID")
@json_option
def show(monitor: Monitor, item_id: str, as_json: bool) -> None:
    """Show one item with its error, its traceback and its runs."""
    item = find(monitor, item_id)
    if as_json:
        print_json(details_of(item))
        return
    for name, value in _lines_of(item):
        if value is not None and value != "":
            say(f"{name + ':':<13}{value}")
    if len(item.runs) > 1:
        say("runs:")
        Table("  attempt", "how", "began", "took", "error").print(map(_run_row, item.runs))
    if item.traceback is not None:
        say("traceback:")
        for line in item.traceback.splitlines():
            say(f"  {line}")


def find(monitor: Monitor, item_id: str) -> ItemSnapshot:
    """Return an item; raise ClickException if it is not known."""
    item = monitor.get(item_id)
    if item is None:
        unasked = f"; Celery could not be asked: {monitor.celery_error}" if monitor.celery_error else ""
        raise click.ClickException(f"there is no item {item_id!r}{unasked}")
    return item


def _lines_of(item: ItemSnapshot) -> Iterator[tuple[str, object]]:
    yield "id", item.id
    yield "task", item.task
    yield "description", item.description
    yield "status", f"{item.status} (paused)" if item.is_paused else item.status
    yield "executor", f"{item.executor} ({item.place})"
    yield "key", item.key
    yield "process", item.process
    yield "attempt", f"{item.attempt} of {item.max_attempts}"
    yield "crashes", item.crashes or None
    yield "asked to end", "yes" if item.is_cancel_requested else None
    yield "enqueued", _moment(item.enqueued_at)
    yield (
        ("next run" if item.attempt else "due"),
        _moment(item.due_at if item.status is Status.QUEUED else None),
    )
    yield "started", _moment(item.started_at)
    yield "finished", _moment(item.finished_at)
    yield "waited", None if item.wait is None else span(item.wait)
    yield "took", None if item.duration is None else span(item.duration)
    yield "progress", _progress(item.progress)
    yield "error", item.error
    yield "request", json.dumps(json_of(item.state)) if item.state else None


def _progress(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    of = "" if progress.total is None else f" of {progress.total:g}"
    return f"{progress.done:g}{of}{', ' + progress.message if progress.message else ''}"


def _moment(at: datetime | None) -> str | None:
    return None if at is None else f"{at.isoformat(' ', 'seconds')} ({ago(at)})"


def _run_row(run: RunSnapshot) -> tuple[str, ...]:
    took = None
    if run.started_at is not None and run.finished_at is not None:
        took = (run.finished_at - run.started_at).total_seconds()
    return f"  {run.attempt}", run.how, ago(run.started_at), span(took), cut(run.error, 80)
