"""The journal after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from .disk import Names
from .power import cut
from .toys import Plain


@pytest.mark.parametrize("names", ["file", "folder"])
@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_synced_toys_lose_nothing(tmp_path: Path, mode: str, names: Names) -> None:
    """SQLite with FULL, and the folder synced too, keeps what it acknowledged."""
    options = {"subject": {"mode": mode, "synchronous": "FULL"}, "mode": {"items": 3}}
    outcome = cut(tmp_path, Plain, options, names=names)
    assert outcome.acknowledged == {"i0", "i1", "i2"}
    assert not outcome.losses, outcome


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"mode": "wal", "synchronous": "NORMAL"}, "file"),
        ({"mode": "wal", "synchronous": "OFF"}, "file"),
        # The rollback journal's name may still be there: only EXTRA syncs the folder.
        ({"mode": "delete", "synchronous": "FULL"}, "file"),
        ({"mode": "wal", "synchronous": "FULL", "careful": False}, "folder"),
    ],
)
def test_careless_toys_are_caught(tmp_path: Path, options: dict[str, str], names: Names) -> None:
    """Unsynced writes are lost by a power cut, but not by a kill."""
    outcome = cut(tmp_path, Plain, {"subject": options, "mode": {"items": 3}}, names=names)
    assert outcome.losses
    assert not outcome.killed, outcome


def test_torn_pages_are_caught(tmp_path: Path) -> None:
    """Without any sync, a database is not only short of rows but broken."""
    options = {"subject": {"mode": "truncate", "synchronous": "OFF"}, "mode": {"items": 3}}
    outcome = cut(tmp_path, Plain, options, mixes=3)
    assert any(loss.broken for loss in outcome.losses), outcome
