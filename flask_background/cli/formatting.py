"""Texts, tables and times as commands print them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flask_background.core.odd_errors import text_of

if TYPE_CHECKING:
    from flask_background.core.status import Progress

#: What a table has where there is no value.
NONE = "-"


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


def warn(text: object) -> None:
    """Print a line for people on the standard error."""
    click.echo(printable(text), err=True)


class Table:
    """Columns under titles. Rows may come part by part; a later part may make its columns wider."""

    def __init__(self, *titles: str) -> None:
        self._titles: tuple[str, ...] | None = titles
        self._widths = [len(title) for title in titles]

    def lines(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """Return the lines of some rows, below the titles if they are the first ones."""
        cells = [tuple(map(printable, row)) for row in rows]
        for row in cells:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        if self._titles is not None:
            cells.insert(0, self._titles)
            self._titles = None
        return ["  ".join(map(str.ljust, row, self._widths)).rstrip() for row in cells]

    def print(self, rows: Iterable[Sequence[str]]) -> None:
        """Print some rows, below the titles if they are the first ones."""
        for line in self.lines(rows):
            click.echo(line)


def cut(text: str | None, length: int) -> str:
    """Return a text of a table's cell, of this length at most."""
    if text is None:
        return NONE
    return text if len(text) <= length else f"{text[: length - 3]}..."


def span(seconds: float | None) -> str:
    """Return a length of time for people: "850 ms", "12 s", "5 min", "3 h" or "4 d"."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def ago(at: datetime | None) -> str:
    """Return how long ago a time was, or how far away it is, as in "in 5 min"."""
    if at is None:
        return NONE
    seconds = (datetime.now(UTC) - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def progress_text(progress: Progress | None) -> str:
    """Return the progress of an item for a table."""
    if progress is None:
        return NONE
    done, total, message = progress
    number = f"{done:g}" if not total else f"{100 * done / total:.0f}%"
    return f"{number} {message}" if message else number


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
