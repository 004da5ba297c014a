"""Dead processes: neither a lost lock nor a removed file makes a living process a dead one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background.durable.journal import takeover, wakeups
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.watch import ProcessWatch

from ...helpers import BOUND, Script, slack, until

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
USER_CONTAINER = ("unshare", "--user", "--map-root-user", *CONTAINER[1:])
NOWHERE: tuple[str, ...] = ()

PROGRAM = """
    import os, sys, time
    from pathlib import Path
    from flask_background.durable.journal.process_lock import ProcessLock

    folder = Path({folder!r})
    lock = ProcessLock(folder, ["mail"], ["thread"])
    lock.begin_run("a")
    print("lock", lock.id, flush=True)
    told = set()
    while True:
        for name in ("lose", "restore", "fork", "exec"):
            if (folder.parent / name).exists() and name not in told:
                told.add(name)
                if name == "lose":
                    (folder / lock.id).read_bytes()
                elif name == "restore":
                    lock.restore()
                elif name == "fork" and os.fork() == 0:
                    while not (folder.parent / "over").exists():
                        time.sleep(0.01)
                    os._exit(0)
                elif name == "exec":
                    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
                print(name, flush=True)
        time.sleep(0.005)
"""


class Other:
    """Another process of the app."""

    def __init__(self, program: Script, folder: Path) -> None:
        self.program = program
        self._folder = folder
        program.wait_for("\n")
        self.id = program.said.split()[1]

    def do(self, what: str) -> None:
        """Have the process lose its lock, restore its files, fork or replace itself."""
        (self._folder.parent / what).touch()
        if what == "exec":
            path = Path(f"/proc/{self.program.process.pid}/cmdline")
            until(lambda: b"script.py" not in path.read_bytes())
        else:
            self.program.wait_for(what)

    def kill(self) -> None:
        """Kill the process, and the command that it runs within."""
        self.program.kill()

    @property
    def path(self) -> Path:
        """Its file."""
        return self._folder / self.id

    def is_dead(self) -> bool:
        """Whether this process takes it for dead."""
        return takeover.is_dead(self._folder, self.id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the processes."""
    return tmp_path / "owners"


@pytest.fixture
def other(script: Callable[..., Script], folder: Path) -> Callable[..., Other]:
    """Starts another process, perhaps in a container of its own."""

    def start(*within: str) -> Other:
        return Other(script(PROGRAM.format(folder=str(folder)), within=within), folder)

    return start


@pytest.fixture
def watch(folder: Path) -> Iterator[ProcessWatch]:
    """This process, which watches the others."""
    lock = ProcessLock(folder, [], [])
    watch = ProcessWatch(lock)
    yield watch
    watch.close()
    lock.close()


everywhere = pytest.mark.parametrize(
    "within", [NOWHERE, CONTAINER, USER_CONTAINER], ids=["here", "container", "user"]
)


@everywhere
def test_lost_lock(other: Callable[..., Other], within: tuple[str, ...]) -> None:
    """A process that has closed another descriptor of its file lives without a lock, and gets it back."""
    process = other(*within)
    process.do("lose")
    assert not process.is_dead()
    process.do("restore")
    process.kill()
    until(process.is_dead)


@everywhere
def test_removed_files(other: Callable[..., Other], folder: Path, within: tuple[str, ...]) -> None:
    """A process whose files somebody has removed is not dead, and makes them again with what it runs."""
    process = other(*within)
    for path in list(folder.iterdir()):
        path.unlink()
    assert takeover.lives(folder, process.id) is (None if within else True)
    process.do("restore")
    assert takeover.lives(folder, process.id) is True
    assert not process.is_dead()
    process.kill()
    until(process.is_dead)
    taken = takeover.take_over(folder, process.id)
    assert taken is not None
    with taken:
        assert taken.running == {"a"}
    process.path.unlink()
    assert takeover.lives(folder, process.id) is False


@everywhere
def test_child_that_outlives_its_parent(
    other: Callable[..., Other], folder: Path, within: tuple[str, ...]
) -> None:
    """A forked child keeps its dead parent's lock from nobody, and does not stand for the parent."""
    process = other(*within)
    process.do("fork")
    try:
        process.kill()
        until(process.is_dead)
    finally:
        (folder.parent / "over").touch()  # the child ends


def test_process_that_replaces_itself(other: Callable[..., Other], watch: ProcessWatch) -> None:
    """A process that has become another program, with its pid and start time, is dead; others notice soon."""
    process = other()
    watch.wait(0.0)
    process.do("exec")
    until(process.is_dead)
    assert until(lambda: watch.wait(1.0), 8.0) == [process.id]


@everywhere
def test_death_wakes_however_often_others_do(
    other: Callable[..., Other], watch: ProcessWatch, within: tuple[str, ...]
) -> None:
    """The kernel reports the death of a process in any container at once, also while wake-ups go on."""
    process = other(*within)
    watch.wait(0.0)
    watch.wait(0.0)
    stop = threading.Event()

    def wake_all() -> None:
        while not stop.wait(0.002):
            wakeups.wake_all(watch._folder)

    waking = threading.Thread(target=wake_all)
    waking.start()
    try:
        began = time.monotonic()
        process.kill()
        assert until(lambda: watch.wait(BOUND)) == [process.id]
        assert time.monotonic() - began < 3 + slack()
    finally:
        stop.set()
        waking.join()


def test_same_pid_in_two_containers(other: Callable[..., Other], folder: Path) -> None:
    """Of two processes with the pid 1, one in each container, one may die without the other."""
    first, second = other(*CONTAINER), other(*CONTAINER)
    assert {name.partition("-")[0] for name in (first.id, second.id)} == {"1"}
    first.kill()
    until(first.is_dead)
    assert not second.is_dead()


def test_stopped_process_without_files(other: Callable[..., Other], folder: Path) -> None:
    """A process that is stopped cannot make its files again, and is not dead."""
    process = other()
    process.program.send(signal.SIGSTOP)
    for path in list(folder.iterdir()):
        path.unlink()
    assert takeover.lives(folder, process.id) is True
    process.kill()
    assert takeover.lives(folder, process.id) is False


def test_two_changes_within_a_tick(other: Callable[..., Other], watch: ProcessWatch, folder: Path) -> None:
    """A process that comes while the folder's time stands still is watched, too."""
    first, second = other(), other()
    now = time.time_ns()
    os.utime(folder, ns=(now, now))
    second_path, hidden = second.path, folder.parent / "hidden"
    second_path.rename(hidden)
    os.utime(folder, ns=(now, now))
    watch.wait(0.0)
    hidden.rename(second_path)
    os.utime(folder, ns=(now, now))
    watch.wait(0.0)
    assert watch._others.keys() == {first.id, second.id}


def test_other_users(folder: Path, other: Callable[..., Other]) -> None:
    """The processes that run as other users are known by their files."""
    process, mine = other(), other()
    os.chown(process.path, 65534, 65534)
    assert takeover.other_users(folder) == {process.id: 65534}
    mine.kill()
