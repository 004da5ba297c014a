"""Items as commands print them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flask_background.core.odd_errors import text_of
from flask_background.durable.journal.row import attempt_of

if TYPE_CHECKING:
    from flask_background.durable.journal.row import ItemRow


def fields(entry: ItemRow) -> dict[str, Any]:
    """Return all fields of an item that are shown; its arguments are not."""
    attempt = attempt_of(entry)
    return {
        "id": entry.id,
        "task": entry.task,
        "status": str(entry.status),
        "executor": entry.executor,
        "key": entry.key,
        "process": entry.owner,
        "attempt": entry.attempt,
        "crashes": entry.crashes,
        "due": _moment(entry.due),
        "enqueued": _moment(entry.enqueued),
        "started": _moment(entry.started),
        "finished": _moment(entry.finished),
        "progress": None if attempt.progress is None else list(attempt.progress),
        "error": None if attempt.error is None else str(attempt.error),
    }


def row(entry: ItemRow) -> tuple[str, ...]:
    """Return the cells of an item in a table."""
    age = max(0, int(time.time() - entry.enqueued))
    return entry.id, str(entry.status), str(entry.attempt), f"{age} s", entry.task


def printable(text: object) -> str:
    """Return a text for a terminal: without control characters, and in the terminal's encoding."""
    safe = "".join(one if one.isprintable() else _escaped(one) for one in text_of(text))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return safe.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def say(text: object) -> None:
    """Print a line, which may contain any text of the app."""
    click.echo(printable(text))


def table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print columns."""
    lines = [titles, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def shown(value: Any) -> Any:
    """Return a value as it is if it is JSON, else as text."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return repr_of(value)
    return value


def repr_of(value: Any) -> str:
    """Return the value's repr, or the name of its type if the repr raises."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__}, whose repr raises>"


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
