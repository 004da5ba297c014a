"""Pages from several sources: nothing is left out and nothing comes twice, in the order of time."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from flask_background import Status
from flask_background.monitoring.pages import Entry, Part, Position, page
from flask_background.monitoring.snapshots import ItemSnapshot
from flask_background.monitoring.sources import ListSource

from ..properties import st


def _item(name: str, enqueued: float) -> ItemSnapshot:
    return ItemSnapshot(
        id=name,
        task="mail",
        status=Status.QUEUED,
        executor="thread",
        place="memory",
        enqueued_at=datetime.fromtimestamp(enqueued, UTC),
    )


class Numbered:
    """A source of items at these times, which looks at so many of them at a time."""

    def __init__(self, name: str, times: list[float], patience: int) -> None:
        self._entries = [
            Entry(at, position, _item(f"{name}{position}", at))
            for position, at in enumerate(sorted(times, reverse=True), 1)
        ]
        self._patience = patience

    def part(self, after: Position | None, limit: int) -> Part:
        """See ``Source``."""
        rest = self._entries[after or 0 :]
        found = rest[: min(limit, self._patience)]
        is_over = len(found) == len(rest)
        is_cut = not is_over and len(found) < limit
        return Part(found, None if is_over else found[-1].position, found[-1].enqueued if is_cut else None)


_TIMES = st.lists(st.integers(0, 30).map(float), max_size=12)


@given(
    numbered=st.lists(st.tuples(_TIMES, st.integers(1, 20)), max_size=3),
    listed=_TIMES,
    limit=st.integers(1, 10),
)
def test_all_items_come_once(
    numbered: list[tuple[list[float], int]], listed: list[float], limit: int
) -> None:
    """All pages together have every item once, those enqueued last first."""
    sources: dict[str, Any] = {
        str(name): Numbered(f"{name}-", times, patience) for name, (times, patience) in enumerate(numbered)
    }
    all_ids = {f"{name}-{n}" for name, (times, _) in enumerate(numbered) for n in range(1, len(times) + 1)}
    made = [(at, f"m{number}") for number, at in enumerate(listed)]
    all_ids |= {name for _, name in made}
    sources["list"] = ListSource((at, name, lambda at=at, name=name: _item(name, at)) for at, name in made)
    found: list[ItemSnapshot] = []
    after = None
    for _ in range(200):
        # A list is made anew for each page.
        sources["list"] = ListSource(
            [(at, name, lambda at=at, name=name: _item(name, at)) for at, name in made]
        )
        shown = page(sources, limit, after)
        assert len(shown.items) <= limit
        found += shown.items
        after = shown.next
        if after is None:
            break
    else:
        pytest.fail("the pages have no end")
    assert len(found) == len(all_ids)
    assert {item.id for item in found} == all_ids
    assert [item.enqueued_at for item in found] == sorted((item.enqueued_at for item in found), reverse=True)


def test_last_page_has_no_next() -> None:
    """A full page with nothing behind it is the last one."""
    source = Numbered("a", [1.0, 2.0], 10)
    assert page({"a": source}, 2, None).next is None
    assert page({"a": source}, 1, None).next is not None


@pytest.mark.parametrize(
    "cursor", ["", "x", "ä", "e30x", "\ud800", "W10", "A" * 10_000, urlsafe_b64encode(b"[" * 50_000).decode()]
)
def test_no_cursor(cursor: str) -> None:
    """A text that is no cursor is refused by name."""
    with pytest.raises(ValueError, match="is no cursor"):
        page({}, 1, cursor)


@pytest.mark.parametrize("position", [5, "x", [], [1], [1, 2], {"a": 1}, [None, "a"], True])
def test_no_position(position: object) -> None:
    """A cursor with another position than its source has made is refused."""
    cursor = urlsafe_b64encode(json.dumps({"a": position}).encode()).decode()
    with pytest.raises(ValueError, match="is no position"):
        page({"a": ListSource([])}, 1, cursor)
