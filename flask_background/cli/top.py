"""The command ``top``: what the app's items do, drawn again and again in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING

import click

from flask_background.cli.base import json_option, monitor_command
from flask_background.cli.fields import print_json
from flask_background.cli.formatting import Table, ago, cut, printable, progress_text
from flask_background.cli.overview import (
    counts_lines,
    other_processes,
    pause_lines,
    process_lines,
    task_lines,
)
from flask_background.core.status import Status
from flask_background.errors import BackgroundError
from flask_background.monitoring.snapshots import ItemQuery

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor
    from flask_background.monitoring.snapshots import ItemSnapshot

_PERIOD = timedelta(hours=1)
_SHOWN = 10
# Escape sequences: the terminal's other screen, without a cursor, where long lines are cut and not continued;
# the way back; the first place; and what clears the rest of a line and of the screen.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_QUIT = {b"q", b"Q", b"\x03", b"\x04", b""}


@monitor_command("top")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3_600),
    default=2.0,
    show_default=True,
    help="The seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print this once, and end; so it is if there is no terminal.")
@json_option
def top(monitor: Monitor, interval: float, once: bool, as_json: bool) -> None:
    """Show tasks, processes, running items and the last failures, until q or Ctrl-C."""
    if as_json:
        print_json(
            {
                "counts": monitor.counts(),
                "tasks": monitor.tasks(_PERIOD),
                "pauses": monitor.pauses(),
                "processes": other_processes(monitor),
                "running": _newest(monitor, Status.RUNNING),
                "failed": _newest(monitor, Status.FAILED),
            }
        )
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        for line in _lines(monitor):
            click.echo(printable(line))
    else:
        with _screen() as keyboard:
            _redraw(monitor, interval, keyboard)


def _lines(monitor: Monitor) -> Iterator[str]:
    yield time.strftime("%H:%M:%S")
    yield from counts_lines(monitor.counts())
    yield from task_lines(monitor.tasks(_PERIOD))
    yield from pause_lines(monitor.pauses())
    yield from ("", *process_lines(other_processes(monitor)))
    if running := _newest(monitor, Status.RUNNING):
        table = Table("running", "task", "since", "progress", "description")
        yield from (
            "",
            *table.lines(
                (
                    item.id,
                    item.task,
                    ago(item.started_at),
                    cut(progress_text(item.progress), 40),
                    cut(item.description, 40),
                )
                for item in running
            ),
        )
    if failed := _newest(monitor, Status.FAILED):
        table = Table("failed", "task", "when", "error")
        yield from (
            "",
            *table.lines((item.id, item.task, ago(item.finished_at), cut(item.error, 80)) for item in failed),
        )


def _newest(monitor: Monitor, status: Status) -> list[ItemSnapshot]:
    return [*monitor.items(ItemQuery(status=status), limit=_SHOWN).items]


@contextmanager
def _screen() -> Iterator[int]:
    """Use the terminal's other screen, and its keys one by one; yield the descriptor of the keys."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        click.echo(_ENTER, nl=False)
        yield keyboard
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
        click.echo(_LEAVE, nl=False)


def _redraw(monitor: Monitor, interval: float, keyboard: int) -> None:
    while True:
        try:
            lines = [*_lines(monitor)]
        except BackgroundError as error:  # the journal may be back at the next look
            lines = [time.strftime("%H:%M:%S"), str(error)]
        size = shutil.get_terminal_size()
        shown = (printable(line)[: size.columns] for line in lines[: size.lines - 1])
        rows = chain(shown, ("q: quit",))
        click.echo(_HOME + "\n".join(f"{row}{_CLEAR_LINE}" for row in rows) + _CLEAR_REST, nl=False)
        ready, _, _ = select.select([keyboard], [], [], interval)
        if ready and os.read(keyboard, 1) in _QUIT:
            return
