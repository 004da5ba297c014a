"""The commands that run items or check the app: worker, celery-worker, doctor and run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flask_background.cli import background
from flask_background.cli.base import command, current_state, json_option
from flask_background.cli.celery_worker import run_celery_worker
from flask_background.cli.doctor import examine
from flask_background.cli.formatting import printable, repr_of, say, shown
from flask_background.cli.worker import run_worker
from flask_background.core.odd_errors import text_of
from flask_background.enqueueing.submit import submit
from flask_background.errors import BackgroundError

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem


@background.command(
    "worker", short_help="Run durable items until TERM or INT, then for up to the grace period."
)
@click.option(
    "--executor", "executors", multiple=True, help="Run only items of this executor; may be repeated."
)
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="The number of processes."
)
@click.option("--burst", is_flag=True, help="End when no item is left to run.")
def worker(executors: tuple[str, ...], count: int, burst: bool) -> None:
    """Run durable items until TERM or INT, then for up to the grace period."""
    state = current_state()
    for name in executors:
        if name not in state.settings.executors:
            known = ", ".join(sorted(state.settings.executors))
            raise click.BadParameter(f"{name!r} is not an executor of this app; its executors are {known}")
    try:
        run_worker(state, executors=executors, count=count, burst=burst)
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
        context.exit(run_celery_worker(current_state(), options))
    except BackgroundError as error:
        raise click.ClickException(str(error)) from error


@command("doctor")
@json_option
def doctor(state: BackgroundState, as_json: bool) -> None:
    """Check for unsafe settings, journal folders, Celery servers and workers.

    The exit status is 0 if all is ok.
    """
    findings = []
    for finding in examine(state):
        findings.append(finding)
        if not as_json:
            text = f"{finding.text.removesuffix('.')}. Cure: {finding.cure}" if finding.cure else finding.text
            say(f"{finding.level:<8}{finding.subject}: {text}")
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    if any(finding.level != "ok" for finding in findings):
        raise click.exceptions.Exit(1)


@command("run")
@click.argument("task")
@click.argument("args", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the item's end, and print its result.")
@json_option
def run(state: BackgroundState, task: str, args: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Enqueue TASK with ARGS, each read as JSON if possible, else as a string.

    A durable item is left to the processes that run such items; any other item runs here, and is waited for.
    """
    found = _find_task(state, task)
    if not found.options.durable or wait:
        state.runs_durable = True
    try:
        values = tuple(map(_value, args))
        found.check_call(*values)
        item = submit(state, found, values, {}, found.options.when)
    except TypeError as error:
        raise click.UsageError(f"{task}: {error}") from error
    result = _result_of(item) if wait or not found.options.durable else None
    state.backend.stop(None)
    if as_json:
        click.echo(json.dumps({"id": item.id, "status": item.status, "result": shown(result)}))
    else:
        say(f"{item.id} {item.status}" + (f": {repr_of(result)}" if result is not None else ""))


def _find_task(state: BackgroundState, name: str) -> Callee:
    tasks = state.registry.tasks
    found = (
        [tasks[name]]
        if name in tasks
        else [task for full, task in tasks.items() if full.endswith(f".{name}")]
    )
    if len(found) == 1:
        return found[0]
    what = "several tasks end in" if found else "there is no task named"
    raise click.UsageError(f"{what} {name!r}; there are: {', '.join(sorted(tasks)) or 'none'}")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


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
