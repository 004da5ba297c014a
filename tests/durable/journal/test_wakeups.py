"""The bells: whoever has one now is woken, whatever the folder was like before."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background.durable.journal import wakeups


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Hangs a new bell, open for reading."""
    bells = []

    def hang(name: str) -> int:
        os.mkfifo(tmp_path / f"{name}.bell")
        bells.append(os.open(tmp_path / f"{name}.bell", os.O_RDWR | os.O_NONBLOCK))
        return bells[-1]

    yield hang
    for bell in bells:
        os.close(bell)


def rang(bell: int) -> bool:
    """Whether it rang since this was last asked."""
    try:
        return bool(os.read(bell, 100))
    except BlockingIOError:
        return False


def make_old(folder: Path) -> None:
    """As if nothing had changed for long."""
    os.utime(folder, (time.time() - 60, time.time() - 60))


def test_but_one(tmp_path: Path, hang: Callable[[str], int]) -> None:
    """All but the one that is named ring, and only bells do."""
    first, second = hang("1-a"), hang("2-b")
    (tmp_path / "1-a").touch()
    wakeups.wake_all(tmp_path, but="1-a")
    assert (rang(first), rang(second)) == (False, True)
    assert (tmp_path / "1-a").read_bytes() == b""


@pytest.mark.parametrize("old", [True, False])
def test_new_bell(tmp_path: Path, hang: Callable[[str], int], old: bool) -> None:
    """A bell that has just been hung rings, also if the folder was listed at that very moment."""
    found = []
    for number in range(50):
        if old:
            make_old(tmp_path)
        wakeups.wake_all(tmp_path)
        found.append(hang(f"{number}-a"))
        wakeups.wake_all(tmp_path)
        assert rang(found[-1])
    assert all(map(rang, found[:-1]))


def test_nothing_has_changed(
    tmp_path: Path, hang: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in which nothing changes is listed once."""
    bell = hang("1-a")
    make_old(tmp_path)
    wakeups.wake_all(tmp_path)
    monkeypatch.setattr(os, "listdir", None)
    assert rang(bell)
    wakeups.wake_all(tmp_path)
    assert rang(bell)


def test_bell_that_is_gone(tmp_path: Path, hang: Callable[[str], int]) -> None:
    """A process that has left is not woken, and the others are."""
    hang("1-a")
    make_old(tmp_path)
    wakeups.wake_all(tmp_path)
    (tmp_path / "1-a.bell").unlink()
    other = hang("2-b")
    wakeups.wake_all(tmp_path)
    assert rang(other)


def test_ring_that_cannot_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot wake the others does not fail, because its write is done."""

    def fail(path: Path) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", fail)
    wakeups.wake_all(tmp_path)
    wakeups.wake_all(tmp_path / "gone")
