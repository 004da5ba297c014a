"""The writer: one transaction for all that waits, and what becomes of a step when the disk fails."""

from __future__ import annotations

import gc
import io
import os
import sqlite3
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flask_background.concurrency import native
from flask_background.core.status import Status
from flask_background.durable.journal import database, queries
from flask_background.durable.journal.database import Database
from flask_background.durable.journal.group_commit import GroupCommit, Insert
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.writer import Writer
from flask_background.durable.journal.writers import writer_at
from flask_background.errors import JournalError

from ...helpers import BOUND, our_threads, slack, until
from ..rows import ROW


@pytest.fixture(params=["wal", "truncate"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writer]:
    """An open writer, in either mode."""
    writer = Writer(tmp_path / "journal", power=True, mode=request.param)
    writer.open()
    yield writer
    writer.close()
    until(lambda: not [thread for thread in our_threads() if "journal" in thread.name])


def row(number: int, **values: Any) -> ItemRow:
    """A new item."""
    now = time.time()
    return ROW._replace(id=f"{number:024x}", due=now, enqueued=now, **values)


def test_a_round_for_many(writer: Writer) -> None:
    """Many threads that enqueue at once need far fewer transactions than items."""
    before = writer.transactions

    def enqueue(first: int) -> None:
        for number in range(first, first + 20):
            writer.write(Insert(row(number)))

    threads = [threading.Thread(target=enqueue, args=(20 * index,)) for index in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert writer.read(queries.stats) == {Status.QUEUED: 640}
    assert writer.transactions - before < 320


def test_step_that_raises_fails_alone(writer: Writer) -> None:
    """Its caller gets the error, nothing of it is written, and the others of its round are."""
    held, free = threading.Event(), threading.Event()
    writer.write_later(lambda db: held.set() or free.wait(BOUND))
    assert held.wait(BOUND)
    outcomes: dict[str, Any] = {}

    def spoil(db: sqlite3.Connection) -> None:
        Insert(row(1))(db)
        raise KeyError("mine")

    def call(name: str, step: Any) -> None:
        try:
            outcomes[name] = writer.write(step)
        except Exception as error:
            outcomes[name] = error

    steps = {"good": Insert(row(2)), "bad": spoil, "twice": Insert(row(3)), "again": Insert(row(3))}
    threads = [threading.Thread(target=call, args=step) for step in steps.items()]
    for thread in threads:
        thread.start()
    until(lambda: len(writer._steps) == 4)
    free.set()
    for thread in threads:
        thread.join(BOUND)
    assert outcomes["good"] is None
    assert isinstance(outcomes["bad"], KeyError)
    assert {type(outcomes["twice"]), type(outcomes["again"])} == {type(None), sqlite3.IntegrityError}
    assert {found.id for found in writer.read(queries.rows)} == {row(2).id, row(3).id}


def test_later(writer: Writer) -> None:
    """A step that nobody waits for is written in its order, and its result is told."""
    told: list[int] = []
    for number in range(50):
        writer.write_later(lambda db, number=number: number, told.append)  # type: ignore[misc]
    assert writer.flush(BOUND)
    assert told == list(range(50))


class Unprintable(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Broken(io.StringIO):
    """A standard error that nobody can write to any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody reads this")


@pytest.mark.parametrize(
    "error", [ValueError("a receiver failed"), Unprintable(), SystemExit(3), KeyboardInterrupt()]
)
def test_callback_that_raises(writer: Writer, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a callback raises, and though nobody can be told of it, the callbacks after it run."""
    told: list[int] = []

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    for number in range(3):
        writer.write_later(lambda db: None, fail)
        writer.write_later(lambda db, number=number: number, told.append)  # type: ignore[misc]
    assert writer.flush(BOUND)
    assert told == [0, 1, 2]
    assert writer.write(lambda db: 42) == 42


@pytest.mark.parametrize("name", ["background-journal", "background-journal-callbacks"])
def test_no_thread_to_be_had(writer: Writer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there can be no more threads nothing is lost and nothing hangs; then all is written, and told."""
    start, told = native.start_thread, []

    def fail(target: Callable[[], None], thread: str) -> None:
        if thread == name:
            raise RuntimeError("can't start new thread")
        start(target, thread)

    monkeypatch.setattr(native, "start_thread", fail)
    writer.write_later(Insert(row(1)), told.append)
    if name == "background-journal":
        with pytest.raises(JournalError, match="can't start new thread"):
            writer.write(Insert(row(2)))
    else:
        writer.write(Insert(row(2)))
    assert told == []
    monkeypatch.undo()
    writer.resume()
    assert writer.flush(BOUND)
    assert told == [None]
    found = {found.id for found in writer.read(queries.rows)}
    assert found == {row(1).id} | ({row(2).id} if "callbacks" in name else set())


def test_writer_that_fails(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a round raises, the next one writes what was left, and telling goes on after anything, too."""
    before, fails = GroupCommit.write, [MemoryError(), SystemExit()]

    def fail(*given: Any) -> None:
        if fails:
            raise fails.pop(0)
        before(*given)

    def leave(value: object) -> None:
        told.append(value)
        raise SystemExit

    told: list[object] = []
    monkeypatch.setattr(GroupCommit, "write", fail)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    writer.write_later(Insert(row(1)), leave)
    until(lambda: not fails)
    writer.resume()
    assert writer.flush(BOUND)
    assert told == [None]
    assert writer.read(queries.stats) == {Status.QUEUED: 1}


def test_locked_for_long(writer: Writer) -> None:
    """A view's step fails within seconds, and is not written; another one is, when the lock is gone."""
    holder = sqlite3.connect(writer.folder / "journal.sqlite3", isolation_level=None)
    holder.execute("begin immediate")
    told: list[object] = []
    writer.write_later(Insert(row(1)), told.append)
    began = time.monotonic()
    with pytest.raises(JournalError, match="locked"):
        writer.write(Insert(row(2)))
    assert time.monotonic() - began < 6
    assert told == []
    holder.execute("rollback")
    holder.close()
    assert writer.flush(BOUND)
    assert told == [None]
    assert [found.id for found in writer.read(queries.rows)] == [row(1).id]


def test_turn_is_taken(writer: Writer, tmp_path: Path) -> None:
    """While another process has the turn a view's step fails within seconds, and is never written."""
    pid = os.fork()
    if pid == 0:
        import fcntl

        turn = os.open(writer.folder / "turn", os.O_RDWR)
        fcntl.lockf(turn, fcntl.LOCK_EX)
        (tmp_path / "taken").touch()
        time.sleep(60)
        os._exit(1)
    try:
        until(lambda: (tmp_path / "taken").exists())
        with pytest.raises(JournalError, match="writing"):
            writer.write(Insert(row(1)))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert writer.write(Insert(row(2))) is None
    assert [found.id for found in writer.read(queries.rows)] == [row(2).id]


def test_checkpoint_that_fails(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed checkpoint neither refuses nor repeats the commit before it; the log gets the error."""

    def fail(database: Database) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Database, "checkpoint", fail)
    assert writer.write(Insert(row(1))) is None
    told: list[object] = []
    steps: list[int] = []
    writer.write_later(lambda db: steps.append(1) or Insert(row(2))(db), told.append)
    assert writer.flush(BOUND)
    assert (steps, told) == ([1], [None])
    assert writer.read(queries.stats) == {Status.QUEUED: 2}
    assert "full" in str(writer.take_trouble())
    assert writer.take_trouble() is None


def test_private(tmp_path: Path) -> None:
    """The files are their owner's alone, whatever the umask."""
    before = os.umask(0)
    try:
        writer = Writer(tmp_path / "journal", power=True)
        writer.open()
        writer.write(Insert(row(1)))
    finally:
        os.umask(before)
    names = {path.name for path in writer.folder.iterdir()}
    assert names == {"journal.sqlite3", "journal.sqlite3-wal", "journal.sqlite3-shm", "turn"}
    for path in (writer.folder, *writer.folder.iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    writer.close()


def test_closed_works_for_the_moment(tmp_path: Path) -> None:
    """A step after the end is written all the same, and leaves no thread and no open file."""
    writer = Writer(tmp_path / "journal", power=False)
    for number in range(3):
        assert writer.write(Insert(row(number))) is None
        until(lambda: not [thread for thread in our_threads() if "journal" in thread.name])
    assert writer.read(queries.stats) == {Status.QUEUED: 3}


def test_one_for_a_folder(tmp_path: Path) -> None:
    """A process has one writer for a journal, by whatever path it is named."""
    (tmp_path / "a").mkdir()
    assert writer_at(tmp_path / "a", power=True) is writer_at(tmp_path / "b" / ".." / "a", power=True)


def test_closed_and_unused(tmp_path: Path) -> None:
    """A writer that is closed has no descriptor, and that nobody has any more is gone."""
    writer = writer_at(tmp_path / "journal", power=False)
    for number in range(2):
        writer.open()
        writer.write(Insert(row(number)))
        assert descriptors(tmp_path)
        writer.close()
        until(lambda: not descriptors(tmp_path))
    assert writer.read(queries.stats) == {Status.QUEUED: 2}
    until(lambda: not descriptors(tmp_path))
    gone = weakref.ref(writer)
    del writer
    until(lambda: gc.collect() >= 0 and gone() is None)


def descriptors(folder: Path) -> list[str]:
    """The files below a folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # iterdir's own
            found.append(os.readlink(link))
    return [path for path in found if path.startswith(str(folder))]


@pytest.mark.parametrize(("count", "size"), [(600, 100_000), (60, 900_000)])
def test_long_wal_is_copied_back(tmp_path: Path, count: int, size: int) -> None:
    """The WAL does not grow for ever, of few large items neither."""
    writer = Writer(tmp_path / "journal", power=False)
    writer.open()
    for number in range(count):
        writer.write(Insert(row(number, state="x" * size)))
    assert wal_size(writer) < 20_000_000
    writer.close()


def wal_size(writer: Writer) -> int:
    """How long the file is, of which SQLite may use a part."""
    return (writer.folder / "journal.sqlite3-wal").stat().st_size


def test_wal_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open transaction of another program holds up no step; when it is over the WAL is used anew."""
    monkeypatch.setattr(database, "_COMMITS", 4)
    monkeypatch.setattr(database, "_AGAIN", 1)
    writer = Writer(tmp_path / "journal", power=False)
    writer.open()
    writer.write(Insert(row(0)))
    reader = sqlite3.connect(f"file:{writer.folder}/journal.sqlite3?mode=ro", uri=True, isolation_level=None)
    reader.execute("begin")
    assert reader.execute("select count(*) from item").fetchone() == (1,)
    began = time.monotonic()
    for number in range(1, 21):
        writer.write(Insert(row(number)))
    assert time.monotonic() - began < 2 + slack()  # which SQLite would wait for the reader, each time
    assert reader.execute("select count(*) from item").fetchone() == (1,)
    reader.execute("commit")
    writer.write(Insert(row(21)))
    before = wal_size(writer)
    for number in range(22, 62):
        writer.write(Insert(row(number)))
    assert wal_size(writer) == before
    assert writer.read(queries.stats) == {Status.QUEUED: 62}
    reader.close()
    writer.close()


def test_no_fork_in_a_transaction(tmp_path: Path) -> None:
    """A process that is forked while others write can write too, and keeps none of them from it."""
    writer = writer_at(tmp_path / "journal", power=True)
    writer.open()
    stop = threading.Event()
    outcomes: list[object] = []

    def write() -> None:
        while not stop.is_set():
            try:
                writer.write(
                    lambda db: db.execute(
                        "insert or replace into schedule (name, spec, next) values ('a', 'b', 1)"
                    )
                )
            except JournalError as error:
                outcomes.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                child = writer_at(writer.folder, power=True)
                child.write(Insert(row(number)))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join(BOUND)
    assert outcomes == []
    assert writer.read(queries.stats) == {Status.QUEUED: 20}
    writer.close()
    until(lambda: not our_threads())
