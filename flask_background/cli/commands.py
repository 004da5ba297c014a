"""The commands of ``flask background``: show and change durable items, run items outside the web processes,
and check the app for unsafe settings.

Errors are one line, and the exit status is 1, or 2 for a wrong command line. Items' arguments are
never shown.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click
from flask import current_app

from flask_background.app_state import state_of
from flask_background.cli import background
from flask_background.cli.celery_worker import run_celery_worker
from flask_background.cli.doctor import examine
from flask_background.cli.formatting import fields, printable, repr_of, row, say, shown, table
from flask_background.cli.worker import run_worker
from flask_background.core.odd_errors import text_of
from flask_background.core.status import Status
from flask_background.durable.journal import outbox, queries, statements
from flask_background.enqueueing.submit import submit
from flask_background.errors import BackgroundError

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem
    from flask_background.durable.backend import DurableBackend
    from flask_background.durable.journal.row import ItemRow

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable, with times in UTC.")
# The queries for items that run here, and for items that wait to be forwarded.
_ALL: tuple[Callable[..., Any], ...] = queries.rows, outbox.rows

_statuses = click.Choice([str(status) for status in Status if status is not Status.INTERRUPTED])


def _part() -> BackgroundState:
    if "background" not in current_app.extensions:
        raise click.ClickException(f"app {current_app.name!r} has no Background: call init_app")
    return state_of(current_app)


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for a command that has one-line errors and leaves items to other processes."""

    def decorate(func: Callable[..., None]) -> click.Command:
        @wraps(func)
        def call(**options: Any) -> None:
            part = _part()
            part.runs_durable = False
            for name, value in options.items():
                _check_text(name, value)
            try:
                func(part, **options)
            except BackgroundError as error:
                raise click.ClickException(printable(error)) from error

        return background.command(name)(call)

    return decorate


@background.command("worker")
@click.option(
    "--executor", "executors", multiple=True, help="Run only items of this executor; may be repeated."
)
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="The number of processes."
)
@click.option("--burst", is_flag=True, help="End when no item is left to run.")
def worker(executors: tuple[str, ...], count: int, burst: bool) -> None:
    """Run durable items until TERM or INT, then for up to the grace period."""
    part = _part()
    for name in executors:
        if name not in part.settings.executors:
            known = ", ".join(sorted(part.settings.executors))
            raise click.BadParameter(f"{name!r} is not an executor of this app; its executors are {known}")
    try:
        run_worker(part, executors=executors, count=count, burst=burst)
    except BackgroundError as error:
        raise click.ClickException(str(error)) from error


@background.command(
    "celery-worker",
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,  # Celery has one, which names its options
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def celery_worker(context: click.Context, options: tuple[str, ...]) -> None:
    """Run items from Celery until TERM or INT. OPTIONS are those of "celery worker"."""
    try:
        context.exit(run_celery_worker(_part(), options))
    except BackgroundError as error:
        raise click.ClickException(str(error)) from error


@_command("doctor")
@_json
def doctor(part: BackgroundState, as_json: bool) -> None:
    """Check for unsafe settings, journal folders, Celery servers and workers.

    The exit status is 0 if all is ok.
    """
    findings = []
    for finding in examine(current_app.extensions["background"]):
        findings.append(finding)
        if not as_json:
            text = f"{finding.text.removesuffix('.')}. Cure: {finding.cure}" if finding.cure else finding.text
            say(f"{finding.level:<8}{finding.subject}: {text}")
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    if any(finding.level != "ok" for finding in findings):
        raise click.exceptions.Exit(1)


@_command("run")
@click.argument("task")
@click.argument("args", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the item's end, and print its result.")
@_json
def run(part: BackgroundState, task: str, args: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Enqueue TASK with ARGS, each read as JSON if possible, else as a string.

    A durable item is left to the processes that run such items; any other item runs here, and is waited for.
    """
    found = _find_task(part, task)
    if not found.options.durable or wait:
        part.runs_durable = True
    try:
        values = tuple(map(_value, args))
        found.check_call(*values)
        item = submit(part, found, values, {}, found.options.when)
    except TypeError as error:
        raise click.UsageError(f"{task}: {error}") from error
    result = _result_of(item) if wait or not found.options.durable else None
    part.backend.stop(None)
    if as_json:
        click.echo(json.dumps({"id": item.id, "status": item.status, "result": shown(result)}))
    else:
        say(f"{item.id} {item.status}" + (f": {repr_of(result)}" if result is not None else ""))


@_command("list")
@click.option("--status", type=_statuses, help="Show only items with this status.")
@click.option("--task", help="Show only items of this task.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="How many items to show, the latest ones.",
)
@_json
def list_(part: BackgroundState, status: str | None, task: str | None, limit: int, as_json: bool) -> None:
    """List the items that were enqueued last."""
    wanted = None if status is None else Status(status)
    found = [_read(part, partial(query, status=wanted, task=task, limit=limit)) for query in _ALL]
    entries = sorted((*found[0], *(waiting.as_item() for waiting in found[1])), key=_enqueued)[-limit:]
    if as_json:
        click.echo(json.dumps([fields(entry) for entry in entries]))
    else:
        table(("id", "status", "attempt", "age", "task"), map(row, entries))


@_command("show")
@click.argument("item_id", metavar="ID")
@_json
def show(part: BackgroundState, item_id: str, as_json: bool) -> None:
    """Show one item."""
    entry = _entry(part, item_id)
    if as_json:
        click.echo(json.dumps(fields(entry)))
        return
    for name, value in fields(entry).items():
        if value is not None:
            say(f"{name + ':':<13}{value}")


@_command("cancel")
@click.argument("item_id", metavar="ID")
@_json
def cancel(part: BackgroundState, item_id: str, as_json: bool) -> None:
    """Cancel a queued item, or ask a running item to end."""
    entry = _entry(part, item_id)
    answer: str | None = part.durable.outbox.cancel(item_id)
    if answer is None:
        item = part.durable.handles.of_row(entry)
        if item.cancel():
            answer = "cancelled" if item.status is Status.CANCELLED else "asked"
    _answer(item_id, answer, "it has ended", as_json)


@_command("retry")
@click.argument("item_id", metavar="ID")
@_json
def retry(part: BackgroundState, item_id: str, as_json: bool) -> None:
    """Run an item again after it failed, was parked or was cancelled."""
    entry = _entry(part, item_id)
    writer = part.durable.session.writer
    done = writer.write(partial(statements.retry, item_id=item_id, now=time.time())) or writer.write(
        partial(outbox.retry, item_id=item_id)
    )
    part.durable.session.wake_all()
    _answer(item_id, "queued" if done else None, f"it is {entry.status}", as_json)


@_command("purge")
@click.option(
    "--status",
    "statuses",
    type=_statuses,
    multiple=True,
    help="Delete only items with this status; may be repeated.",
)
@click.confirmation_option(prompt="Delete these ended items?")
@_json
def purge(part: BackgroundState, statuses: tuple[str, ...], as_json: bool) -> None:
    """Delete items that have ended."""
    wanted = [Status(status) for status in statuses] or list(Status)
    count = part.durable.maintenance.removal.purge(wanted)
    click.echo(json.dumps({"purged": count}) if as_json else f"{count} forgotten")


@_command("stats")
@_json
def stats(part: BackgroundState, as_json: bool) -> None:
    """Show how many items there are, by status."""
    found = Counter(_read(part, queries.stats)) + Counter(_read(part, outbox.stats))
    counts = {str(status): found[status] for status in Status if status is not Status.INTERRUPTED}
    if as_json:
        click.echo(json.dumps(counts))
    else:
        table(("status", "items"), ((name, str(count)) for name, count in counts.items()))


def _find_task(part: BackgroundState, name: str) -> Callee:
    tasks = part.registry.tasks
    found = (
        [tasks[name]]
        if name in tasks
        else [task for full, task in tasks.items() if full.endswith(f".{name}")]
    )
    if len(found) == 1:
        return found[0]
    what = "several tasks end in" if found else "there is no task named"
    raise click.UsageError(f"{what} {name!r}; there are: {', '.join(sorted(tasks)) or 'none'}")


def _read(part: BackgroundState, query: Callable[..., Any]) -> Any:
    durable: DurableBackend = part.durable
    return durable.session.writer.read(query)


def _entry(part: BackgroundState, item_id: str) -> ItemRow:
    entry = part.durable.session.read_row(item_id)
    if entry is None and (waiting := part.durable.outbox.get(item_id)) is not None:
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


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_text(name: str, value: object) -> None:
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{name}: {value!r} is no well-formed text") from None


def _result_of(item: WorkItem[Any]) -> Any:
    """Return the item's result. Of a failed item the log has the traceback, and this command one line."""
    try:
        return item.result()
    except BackgroundError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not item.status.is_final:
            raise
        kind = type(error).__qualname__
        raise click.ClickException(
            printable(f"item {item.id} {item.status}: {kind}: {text_of(error)}")
        ) from None
