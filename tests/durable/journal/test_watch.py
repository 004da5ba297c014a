"""Waiting for a bell, for the death of a sibling, and for the time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background.durable.journal import takeover, wakeups
from flask_background.durable.journal import watch as module
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.watch import ProcessWatch

from ...helpers import BOUND, Script, slack, until

SIBLING = """
    import sys, time
    from pathlib import Path
    from flask_background.durable.journal.process_lock import ProcessLock

    owner = ProcessLock(Path({folder!r}), [], [])
    print("owner", owner.id, flush=True)
    sys.stdin.readline() if {leaves} else time.sleep(60)
    while not Path({folder!r}, "leave.txt").exists():
        time.sleep(0.005)
    owner.close()
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the owners."""
    return tmp_path / "owners"


@pytest.fixture
def owner(folder: Path) -> Iterator[ProcessLock]:
    """This process as an owner."""
    owner = ProcessLock(folder, [], [])
    yield owner
    owner.close()


@pytest.fixture
def watch(owner: ProcessLock) -> Iterator[ProcessWatch]:
    """Its watch, which has not waited yet."""
    watch = ProcessWatch(owner)
    yield watch
    watch.close()


@pytest.fixture
def sibling(script: Callable[..., Script], folder: Path) -> Callable[..., tuple[Script, str]]:
    """Starts another process of the app; returns it with its owner's id."""

    def start(leaves: bool = False) -> tuple[Script, str]:
        program = script(SIBLING.format(folder=str(folder), leaves=leaves))
        program.wait_for("\n")
        return program, program.said.split()[1]

    return start


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def took(watch: ProcessWatch, timeout: float) -> float:
    """How long a wait takes that sees nobody die."""
    began = time.monotonic()
    assert watch.wait(timeout) == []
    return time.monotonic() - began


def test_time(watch: ProcessWatch) -> None:
    """Where nothing happens, a wait takes its time; the first one is woken by the owner's own arrival."""
    assert took(watch, BOUND) < BOUND / 2
    assert 0.05 <= took(watch, 0.05) < 2 + slack()
    assert took(watch, 0.0) < 2 + slack()


def test_rings_before_the_wait(watch: ProcessWatch, folder: Path) -> None:
    """A ring that comes before the wait ends it at once; many of them are one."""
    took(watch, 0.0)
    for _ in range(70_000):  # more than the FIFO holds
        wakeups.wake(watch._lock.fifo_path)
    assert took(watch, BOUND) < BOUND / 2
    assert took(watch, 0.05) >= 0.05


def test_ring_during_the_wait(watch: ProcessWatch, folder: Path) -> None:
    """A ring ends a wait that has begun; one that spares this owner does not."""
    took(watch, 0.0)
    timer = threading.Timer(0.03, wakeups.wake_all, [folder])
    timer.start()
    assert took(watch, BOUND) < BOUND / 2
    timer.join()
    wakeups.wake_all(folder, but=watch._lock.id)
    assert took(watch, 0.05) >= 0.05


def test_sibling_comes(watch: ProcessWatch, sibling: Callable[..., tuple[Script, str]]) -> None:
    """A new sibling rings, is followed by a descriptor of its own, and its death wakes."""
    took(watch, 0.0)
    program, name = sibling()
    assert took(watch, BOUND) < BOUND / 2
    watch.wait(0.0)
    assert set(watch._others) == {name}
    assert watch._others[name] is not None
    program.kill()
    assert watch.wait(BOUND) == [name]


def test_was_dead_before(
    watch: ProcessWatch, folder: Path, sibling: Callable[..., tuple[Script, str]]
) -> None:
    """A process that died before this one came is found without a wait, and again until it is taken over."""
    program, name = sibling()
    program.kill()
    assert watch.dead() == [name]
    assert until(lambda: watch.wait(1.0)) == [name]
    taken = takeover.take_over(folder, name)
    assert taken is not None
    with taken:
        taken.remove_files()
    assert watch.dead() == []
    watch.wait(0.0)
    assert took(watch, 0.7) >= 0.6  # nobody is in the dark any more


def test_several_die(watch: ProcessWatch, sibling: Callable[..., tuple[Script, str]]) -> None:
    """All who have died are named."""
    both = [sibling() for _ in range(2)]
    took(watch, 0.0)
    for program, _ in both:
        program.kill()
    assert until(lambda: sorted(watch.wait(1.0)) == sorted(name for _, name in both))


def test_who_leaves_has_not_died(
    watch: ProcessWatch, folder: Path, sibling: Callable[..., tuple[Script, str]]
) -> None:
    """A sibling that leaves properly is not watched any more, and its end wakes nobody."""
    program, name = sibling(leaves=True)
    took(watch, 0.0)
    watch.wait(0.0)
    assert set(watch._others) == {name}
    (folder / "leave.txt").touch()
    until(lambda: not (folder / name).exists())
    before = descriptors()
    watch.wait(0.0)
    assert watch._others == {}
    assert descriptors() == before - 1
    program.kill()
    assert took(watch, 0.05) >= 0.05


@pytest.mark.parametrize("name", ["1-a", "x-y", "-", "999999999-a", "0-a", "99999999999999999999-a"])
def test_strange_owner(watch: ProcessWatch, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be followed, because it has no such process, is looked for from time to time."""
    monkeypatch.setattr(module, "_LOOK", 0.02)
    took(watch, 0.0)
    monkeypatch.setattr(takeover, "is_dead", lambda folder, name: False)
    (folder / name).touch()
    assert took(watch, 0.1) < 2 + slack()
    monkeypatch.undo()
    monkeypatch.setattr(module, "_LOOK", 0.02)
    assert until(lambda: watch.wait(0.2)) == [name]


def test_close_leaves_nothing(owner: ProcessLock, sibling: Callable[..., tuple[Script, str]]) -> None:
    """A closed watch has no descriptor open; to close it twice does no harm."""
    before = descriptors()
    watch = ProcessWatch(owner)
    for _ in range(2):
        sibling()
    watch.wait(0.0)
    assert descriptors() == before + 2
    watch.close()
    watch.close()
    assert descriptors() == before


def test_many_waits_leave_nothing(watch: ProcessWatch, sibling: Callable[..., tuple[Script, str]]) -> None:
    """Siblings that come and die leave no descriptor behind."""
    took(watch, 0.0)
    before = descriptors()
    for _ in range(3):
        program, name = sibling()
        watch.wait(0.0)
        watch.wait(0.0)
        program.kill()
        assert name in until(lambda: watch.wait(1.0))
    assert descriptors() == before


def test_folder_is_gone(watch: ProcessWatch, owner: ProcessLock, folder: Path) -> None:
    """Where somebody has removed the folder, the wait says so: it must not turn without a pause."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        watch.wait(0.0)
