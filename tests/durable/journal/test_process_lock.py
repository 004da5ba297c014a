"""Owners: known to be alive by a lock, and to have run what their files say."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background.durable.journal import process_lock, takeover, wakeups
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.watch import ProcessWatch

from ...helpers import BOUND, Script, slack, until

OWNER = """
    import sys, time
    from pathlib import Path
    from flask_background.durable.journal.process_lock import ProcessLock

    owner = ProcessLock(Path({folder!r}), ["mail"], ["thread"])
    for line in {lines!r}:
        if line == "!":
            owner.expect_kill()
        else:
            (owner.begin_run if line[0] == "+" else owner.end_run)(line[1:])
    print("owner", owner.id, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the owners."""
    return tmp_path / "owners"


@pytest.fixture
def owner(folder: Path) -> Iterator[ProcessLock]:
    """This process as an owner."""
    owner = ProcessLock(folder, ["mail", "pdf"], ["thread"])
    yield owner
    owner.close()


@pytest.fixture
def process(script: Callable[..., Script], folder: Path) -> Callable[..., tuple[Script, str]]:
    """Starts another process, whose file has these lines; returns it with its owner's id."""

    def start(*lines: str) -> tuple[Script, str]:
        program = script(OWNER.format(folder=str(folder), lines=lines))
        program.wait_for("\n")
        return program, program.said.split()[1]

    return start


def test_own_is_never_dead(owner: ProcessLock, folder: Path) -> None:
    """A process does not take over from itself; that would free its lock."""
    assert takeover.take_over(folder, owner.id) is None
    assert not takeover.is_dead(folder, owner.id)
    assert takeover.others(folder) == []
    assert takeover.exists(folder, owner.id)
    assert not takeover.exists(folder, "1-gone")


@pytest.mark.parametrize(
    ("lines", "running", "charged"),
    [
        ((), set(), True),
        (("+a", "+b", "-a"), {"b"}, True),
        (("+a", "!"), {"a"}, False),
    ],
)
def test_take_over(
    folder: Path,
    process: Callable[..., tuple[Script, str]],
    lines: tuple[str, ...],
    running: set[str],
    charged: bool,
) -> None:
    """A live process keeps its own; of a dead one the file says what was running."""
    program, name = process(*lines)
    assert takeover.others(folder) == [name]
    assert takeover.knows(folder, name, "mail")
    assert not takeover.knows(folder, name, "pdf")
    assert takeover.knows(folder, name, "mail", "thread")
    assert not takeover.knows(folder, name, "mail", "gpu")
    assert not takeover.is_dead(folder, name)
    program.send(signal.SIGSTOP)
    assert not takeover.is_dead(folder, name)
    program.kill()
    taken = takeover.take_over(folder, name)
    assert taken is not None
    with taken:
        assert (taken.running, taken.charged) == (running, charged)
        assert not taken_elsewhere(folder, name)
        taken.remove_files()
    assert os.listdir(folder) == []
    assert takeover.take_over(folder, name) is None


def taken_elsewhere(folder: Path, name: str) -> bool:
    """Whether another process could take over."""
    pid = os.fork()
    if pid == 0:
        os._exit(takeover.is_dead(folder, name))
    return bool(os.waitpid(pid, 0)[1])


def test_what_cannot_be_opened(owner: ProcessLock, folder: Path) -> None:
    """The file of an owner that this process may not open is somebody else's to take over."""
    (folder / "1-a").mkdir()  # refused to root, too
    assert takeover.others(folder) == ["1-a"]
    assert takeover.take_over(folder, "1-a") is None
    assert not takeover.is_dead(folder, "1-a")


def test_empty_file(folder: Path) -> None:
    """A power cut may leave nothing of a file but its name."""
    folder.mkdir()
    (folder / "1-a").touch()
    taken = takeover.take_over(folder, "1-a")
    assert taken is not None
    with taken:
        assert taken.running == set()


def work(owner: ProcessLock, count: int = 100) -> None:
    """Have so many runs begin and end."""
    for number in range(count):
        owner.begin_run(f"{number:024x}")
        owner.end_run(f"{number:024x}")


def test_file_does_not_grow_for_ever(
    owner: ProcessLock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun anew, with what runs, and is locked all the time."""
    monkeypatch.setattr(process_lock, "_LONG", 500)
    owner._longest = 500
    owner.begin_run("long")
    work(owner)
    assert not taken_elsewhere(folder, owner.id)  # first, for to read the file here frees the lock
    assert (folder / owner.id).stat().st_size < 600
    lines = (folder / owner.id).read_bytes().splitlines()
    assert lines[0] == b'[["mail", "pdf"], ["thread"]]'
    assert lines[1].startswith(b"={")
    assert lines[2] == b"+long"
    assert sorted(os.listdir(folder)) == [owner.id, f"{owner.id}.bell"]


def test_much_runs(owner: ProcessLock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is long because many items run is not made anew at every end."""
    monkeypatch.setattr(process_lock, "_LONG", 500)
    owner._longest = 500
    made: list[int] = []
    make = ProcessLock._make_file
    monkeypatch.setattr(ProcessLock, "_make_file", lambda self: made.append(1) or make(self))
    for number in range(1_000):
        owner.begin_run(f"r{number}")
    work(owner)
    assert len(made) < 5


RENEWING = """
    import os, signal
    from flask_background.durable.journal import process_lock

    process_lock._LONG = 500
    rename, renamed = os.rename, []

    def rename_and_die(*paths):
        renamed.append(paths)
        if {when!r} == "before" and len(renamed) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)
        if {when!r} == "after" and len(renamed) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = rename_and_die
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_death_while_it_is_begun_anew(
    folder: Path, script: Callable[..., Script], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the process dies, the file says what was running."""
    lines = ["+long", "!", *(f"{sign}{number:024x}" for number in range(200) for sign in "+-")]
    program = script(RENEWING.format(when=when), OWNER.format(folder=str(folder), lines=lines))
    assert program.ends() == -signal.SIGKILL, program.said
    (name,) = takeover.others(folder)
    taken = takeover.take_over(folder, name)
    assert taken is not None
    with taken:
        assert (taken.running, taken.charged) == ({"long"}, False)
        taken.remove_files()
    monkeypatch.setattr(takeover, "_NEW", -1.0)
    takeover.sweep(folder)
    assert os.listdir(folder) == []


def test_sweep_while_it_is_begun_anew(
    owner: ProcessLock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the new file before it has its name, by this process too, does not free its lock."""
    rename = os.rename
    monkeypatch.setattr(takeover, "_NEW", -1.0)

    def sweep_and_rename(*paths: Path) -> None:
        takeover.sweep(folder)
        assert not taken_elsewhere(folder, f"{owner.id}.new")
        rename(*paths)

    monkeypatch.setattr(os, "rename", sweep_and_rename)
    owner.begin_run("a")
    owner._replace_file()
    assert not taken_elsewhere(folder, owner.id)


def test_take_over_of_what_was_the_file(owner: ProcessLock, folder: Path) -> None:
    """A process that has opened the old file gets its lock when there is a new one and takes nothing over."""
    to_child, to_parent = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        lock = fcntl.lockf

        def wait_and_lock(*given: int) -> None:
            os.write(to_parent[1], b"!")
            os.read(to_child[0], 1)
            lock(*given)

        fcntl.lockf = wait_and_lock  # type: ignore[assignment]
        os._exit(takeover.is_dead(folder, owner.id))
    try:
        os.read(to_parent[0], 1)
        owner._replace_file()
    finally:
        os.write(to_child[1], b"!")
        took_over = os.waitpid(pid, 0)[1]
        for descriptor in (*to_child, *to_parent):
            os.close(descriptor)
    assert not took_over


def test_file_that_cannot_be_begun_anew(
    owner: ProcessLock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the old one goes on."""
    monkeypatch.setattr(process_lock, "_LONG", 500)
    owner._longest = 500

    def fail(*paths: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", fail)
        owner.begin_run("long")
        work(owner)
    assert sorted(os.listdir(folder)) == [owner.id, f"{owner.id}.bell"]
    assert (folder / owner.id).read_bytes().endswith(f"-{99:024x}\n".encode())
    work(owner)
    assert (folder / owner.id).stat().st_size < 600
    assert not taken_elsewhere(folder, owner.id)


def test_closed_writes_nowhere(folder: Path, tmp_path: Path) -> None:
    """The descriptor of a closed owner may be another file's by now."""
    owner = ProcessLock(folder, [], [])
    owner.close()
    descriptors = [os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT) for _ in range(5)]
    owner.begin_run("a")
    owner.end_run("a")
    owner.expect_kill()
    owner.close()
    assert (tmp_path / "other").read_bytes() == b""
    for descriptor in descriptors:
        os.close(descriptor)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("fails", ["write", "mkfifo"])
def test_failure_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Where the disk is full, or has no FIFOs, no file and no descriptor is left of the attempt."""
    before = len(os.listdir("/proc/self/fd"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        ProcessLock(folder, [], [])
    monkeypatch.undo()
    assert os.listdir(folder) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_sweep(owner: ProcessLock, folder: Path) -> None:
    """The file of a process that died while it became an owner is removed, and nothing else."""
    for name in ("1-a.new", "1-c.new"):
        (folder / name).touch()
    long_ago = time.time() - 100
    os.utime(folder / "1-a.new", (long_ago, long_ago))  # the other one is perhaps just being made
    os.mkfifo(folder / "1-b.bell")
    takeover.sweep(folder)
    takeover.sweep(folder)
    assert sorted(os.listdir(folder)) == sorted(["1-c.new", owner.id, f"{owner.id}.bell"])


def test_bell(owner: ProcessLock, folder: Path) -> None:
    """Whoever waits is woken by a ring, each time, and not by one that was before the last wait."""
    watch = ProcessWatch(owner)
    watch.wait(0.0)
    for _ in range(3):
        threading.Timer(0.02, wakeups.wake_all, [folder]).start()
        began = time.monotonic()
        assert watch.wait(BOUND) == []
        assert time.monotonic() - began < BOUND / 2
    began = time.monotonic()
    watch.wait(0.05)
    assert time.monotonic() - began >= 0.05
    watch.close()


def test_death_wakes(owner: ProcessLock, folder: Path, process: Callable[..., tuple[Script, str]]) -> None:
    """The kernel tells of a sibling's death at once, again and again until somebody has taken over."""
    watch = ProcessWatch(owner)
    program, name = process("+a")
    watch.wait(0.0)
    threading.Timer(0.05, program.process.kill).start()
    began = time.monotonic()
    dead = until(lambda: watch.wait(BOUND))
    assert dead == [name]
    assert time.monotonic() - began < 2 + slack()
    program.process.wait(BOUND)
    assert until(lambda: watch.wait(1.0)) == [name]
    watch.close()


def test_without_pidfd(
    owner: ProcessLock,
    process: Callable[..., tuple[Script, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel does not tell, somebody looks every half second, also while the bell rings."""
    monkeypatch.delattr(os, "pidfd_open")
    watch = ProcessWatch(owner)
    program, name = process()
    watch.wait(0.0)
    program.kill()
    began = time.monotonic()

    def look() -> list[str]:
        wakeups.wake_all(owner.folder)
        return watch.wait(BOUND)

    assert until(look) == [name]
    assert time.monotonic() - began < 2 + slack()
    watch.close()


def test_fork_is_nobody(owner: ProcessLock, folder: Path) -> None:
    """A child has not inherited the lock, nor does it free it."""
    pid = os.fork()
    if pid == 0:
        os._exit(takeover.others(folder) != [owner.id] or takeover.is_dead(folder, owner.id))
    assert os.waitpid(pid, 0)[1] == 0
    assert not taken_elsewhere(folder, owner.id)
