"""A process that is killed at any system call, or whose disk is full or fails for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from .aftermath import missing
from .conftest import Size
from .syscalls import Place, attempt, kill_at, places, some
from .toys import Deleting, Forgetting, Plain, Swallowing

SHORT = {"mode": {"items": 2}}


def test_a_sound_toy_survives_each_kill(tmp_path: Path, size: Size) -> None:
    """Nothing that was acknowledged is lost, and nothing that is done runs again."""
    where = places(tmp_path, Plain, SHORT)
    assert {"pwrite64", "fdatasync", "mkdir", "unlink"} <= {place.name for place in where}
    tried, wrong = kill_at(tmp_path, some(where, size.places), Plain, SHORT)
    assert not wrong
    assert all(child.code == -9 for child in tried)


@pytest.mark.parametrize("wrong", [Deleting, Forgetting])
def test_unsound_toys_are_caught(tmp_path: Path, wrong: type[Plain]) -> None:
    """An item that is lost or runs again is told."""
    where = places(tmp_path, wrong, SHORT)
    at = [
        place for place, last in where.items() if place.name == "pwrite64" and last in ("end i0", "done i0")
    ]
    _, complaints = kill_at(tmp_path, at[:1], wrong, SHORT)
    assert complaints


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("toy", [Plain, Swallowing])
def test_a_failing_disk(tmp_path: Path, toy: type[Plain], error: str) -> None:
    """An item that cannot be written is refused; a toy that swallows the error is caught."""
    where = places(tmp_path, toy, SHORT)
    first = next(
        place.number for place in where if place.name == "pwrite64" and where[place].startswith("took")
    )
    fault = f"pwrite64:error={error}:when={first}"
    child = attempt(tmp_path, Place("pwrite64", first), toy, SHORT, fault)
    assert child.code == 0, child.said
    assert missing(child, toy) == ([] if toy is Plain else ["i1 is lost"])
    assert child.what("nack") == (["i1"] if toy is Plain else [])
