"""Ids of items: unique, also when several threads make them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from flask_background.core import ids


def test_ids_taken_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that makes ids gets one of them, even if other threads take all the others at once."""

    class Coveted(list[str]):
        def extend(self, others: Iterable[str]) -> None:
            super().extend(others)
            self.clear()

    monkeypatch.setattr(ids, "unused_ids", Coveted())
    made = [ids.make_ids() for _ in range(3)]
    assert len(set(made)) == 3
    assert all(len(each) == 24 and set(each) <= set("0123456789abcdef") for each in made)
    assert ids.unused_ids == []
