"""The commands that stop and start tasks: pause, resume and run-now."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from flask_background.cli.base import json_option, monitor_command, nothing_done, operator
from flask_background.cli.fields import print_json
from flask_background.cli.formatting import say, warn

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor
    from flask_background.monitoring.snapshots import PauseKind

_task = click.argument("task", required=False)
_executor = click.option("--executor", metavar="NAME", help="The executor, in place of a task.")


@monitor_command("pause")
@_task
@_executor
@json_option
def pause(monitor: Monitor, task: str | None, executor: str | None, as_json: bool) -> None:
    """Let the durable items of TASK, or of an executor, wait in all processes until "resume".

    Runs that have begun go on. The pause survives restarts.
    """
    kind, name = _target(task, executor)
    try:
        paused = monitor.pause(kind, name, by=operator())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if kind == "task" and not any(
        each.is_durable for each in monitor.tasks(timedelta(0)) if each.name == name
    ):
        warn(f"The task {name} is not durable: the pause holds back only those of its items that are")
    _tell(kind, name, "paused", paused, "it was paused already", as_json)


@monitor_command("resume")
@_task
@_executor
@json_option
def resume(monitor: Monitor, task: str | None, executor: str | None, as_json: bool) -> None:
    """End the pause of TASK, or of an executor."""
    kind, name = _target(task, executor)
    try:
        resumed = monitor.resume(kind, name, by=operator())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _tell(kind, name, "resumed", resumed, "it was not paused", as_json)


@monitor_command("run-now")
@click.argument("task")
@json_option
def run_now(monitor: Monitor, task: str, as_json: bool) -> None:
    """Enqueue the periodic TASK now, beside its schedule."""
    try:
        item_id = monitor.run_now(task, by=operator())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        print_json({"id": item_id})
    else:
        say(f"{task}: an earlier item has not ended" if item_id is None else f"{item_id} enqueued")
    if item_id is None:
        raise nothing_done()


def _target(task: str | None, executor: str | None) -> tuple[PauseKind, str]:
    if task is not None and executor is None:
        return "task", task
    if executor is not None and task is None:
        return "executor", executor
    raise click.UsageError("give either the name of a task, or --executor NAME")


def _tell(kind: PauseKind, name: str, what: str, done: bool, why_not: str, as_json: bool) -> None:
    if as_json:
        print_json({"kind": kind, "name": name, what: done})
    else:
        say(f"The {kind} {name} {what}" if done else f"The {kind} {name}: {why_not}")
    if not done:
        raise nothing_done()
