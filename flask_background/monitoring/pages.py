"""Pages of items from several sources, merged: the journal, its outbox, this process's memory, and Celery.

Each source gives its items in its own order, those enqueued last first, and the cursor of the next page has a
position in each. So items that come, end or go between two pages shift no other item.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from flask_background.monitoring.snapshots import ItemSnapshot, Page
from flask_background.monitoring.values import moment

#: A position in a source: JSON that the source itself has made; None: the beginning.
Position = Any


class Entry(NamedTuple):
    """One item. ``enqueued`` is ``time.time()``; the next items of its source come after ``position``."""

    enqueued: float
    position: Position
    item: ItemSnapshot


class Part(NamedTuple):
    """The next items of one source.

    ``after``: the position after all that was looked at; None: there is no more. ``looked_back_to``: the
    enqueue time that the source has looked back to, if time ran out.
    """

    entries: Sequence[Entry]
    after: Position | None = None
    looked_back_to: float | None = None


class Source(Protocol):
    """Gives items, those enqueued last first."""

    def part(self, after: Position | None, limit: int) -> Part:
        """Return the next items, at most ``limit``. Raises ValueError for a position that is none."""
        ...


_OVER = "over"


def page(sources: Mapping[str, Source], limit: int, after: str | None) -> Page:
    """Return the next page. ``after``: the cursor of the page before; raises ValueError if it is none."""
    positions = {} if after is None else _read(after)
    parts = {
        name: source.part(positions.get(name), limit + 1)  # to know whether there is a next page
        for name, source in sources.items()
        if positions.get(name) != _OVER
    }
    horizon = max(
        (part.looked_back_to for part in parts.values() if part.looked_back_to is not None), default=None
    )
    merged = sorted(
        ((entry, name) for name, part in parts.items() for entry in part.entries),
        key=lambda found: found[0].enqueued,
        reverse=True,
    )
    # A source whose time ran out may have later items than these: they come with the next page.
    shown = [found for found in merged if horizon is None or found[0].enqueued >= horizon][:limit]
    counts = dict.fromkeys(parts, 0)
    for _, name in shown:
        counts[name] += 1
    for name, part in parts.items():
        if counts[name] == len(part.entries):
            positions[name] = _OVER if part.after is None else part.after
        elif counts[name]:
            positions[name] = part.entries[counts[name] - 1].position
    is_over = all(positions.get(name) == _OVER for name in sources)
    return Page(
        items=tuple(entry.item for entry, _ in shown),
        next=None if is_over else _write(positions),
        looked_back_to=moment(horizon),
    )


def _write(positions: Mapping[str, Position]) -> str:
    text = json.dumps(positions, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str) -> dict[str, Position]:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        positions = json.loads(text)
    except (ValueError, binascii.Error, RecursionError, AttributeError):
        positions = None
    if not isinstance(positions, dict):
        raise ValueError(f"{cursor!r} is no cursor: give that of a page before, or none for the first page")
    return positions
