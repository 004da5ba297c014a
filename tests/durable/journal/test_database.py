"""The file: how it is made, opened again, written, copied back and closed."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from flask_background.durable.journal import database as module
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal.database import Database, Mode
from flask_background.durable.journal.row import COLUMNS, ItemRow

from ..rows import ROW


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Makes databases in one folder."""
    made: list[Database] = []

    def make(mode: Mode = "wal") -> Database:
        made.append(Database(tmp_path, mode))
        return made[-1]

    yield make
    for database in made:
        with database.write_lock:
            database.close()
        os.close(database.write_lock._descriptor)


@pytest.fixture(params=["wal", "truncate"])
def database(request: pytest.FixtureRequest, make: Callable[..., Database]) -> Database:
    """A new one, of which nothing is open."""
    return make(request.param)


def write(database: Database, *, full: bool = False, row: ItemRow = ROW) -> None:
    """Enter an item."""
    with database.write_lock:
        connection = database.begin(full=full)
        statements.insert(connection, row)
        database.commit()
        database.checkpoint()


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """The value of one."""
    return connection.execute(f"pragma {name}").fetchone()[0]


def test_nothing_before_it_is_opened(database: Database, tmp_path: Path) -> None:
    """Only the file for the turn is there; to close what is not open does nothing."""
    assert os.listdir(tmp_path) == ["turn"]
    database.checkpoint()
    database.close()
    assert (database.reader, database.writer) == (None, None)


def test_open(database: Database, tmp_path: Path) -> None:
    """The schema is there, in the mode that was asked for; the second time it is the same connection."""
    connection = database.open()
    assert database.open() is connection is database.writer
    assert pragma(connection, "journal_mode") == database.mode
    assert pragma(connection, "wal_autocheckpoint") == 0
    names = {row[1] for row in connection.execute("pragma table_info(item)")}
    assert names == {"number", *COLUMNS}
    assert stat.S_IMODE((tmp_path / "journal.sqlite3").stat().st_mode) == 0o600


def test_reader_that_cannot_be_opened(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open that fails half-way, for lack of descriptors, say, leaves nothing: the next one opens both."""
    connect = sqlite3.connect
    made: list[sqlite3.Connection] = []

    def fail_second(*args: Any, **options: Any) -> sqlite3.Connection:
        if len(made) == 1:
            made.append(made[0])
            raise sqlite3.OperationalError("unable to open database file")
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", fail_second)
    with database.write_lock, pytest.raises(sqlite3.OperationalError):
        database.open()
    assert database.writer is database.reader is None
    with database.write_lock:
        database.open()
    assert database.writer is not None
    assert database.reader is not None


def test_reader_cannot_write(database: Database) -> None:
    """A reader only reads, and sees every commit at once."""
    write(database)
    assert database.reader is not None
    assert queries.get(database.reader, ROW.id) == ROW
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        statements.prune(database.reader, 1e12, 10)


def test_opened_again(database: Database, make: Callable[..., Database]) -> None:
    """A closed journal has all that was written, once, for another process as well."""
    write(database)
    with database.write_lock:
        database.close()
    assert (database.reader, database.writer) == (None, None)
    other = make(database.mode)
    for each in (database, other):
        with each.write_lock:
            assert queries.rows(each.open()) == [ROW]
    with pytest.raises(sqlite3.IntegrityError):
        write(other)
    assert other.writer is not None
    other.writer.execute("rollback")


@pytest.mark.parametrize("full", [True, False])
def test_full(database: Database, full: bool) -> None:
    """Each transaction is synced as it was asked for, whatever the one before was."""
    for wanted in (not full, full, full):
        with database.write_lock:
            connection = database.begin(full=wanted)
            assert connection.in_transaction
            assert pragma(connection, "synchronous") == (2 if wanted else 1)
            connection.execute("rollback")
    with database.write_lock:
        database.close()
        connection = database.begin(full=full)  # a new connection has forgotten it
        assert pragma(connection, "synchronous") == (2 if full else 1)
        connection.execute("rollback")


def test_checkpoint(make: Callable[..., Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many commits the WAL is written from its beginning; where somebody reads it, later."""
    monkeypatch.setattr(module, "_COMMITS", 10)
    monkeypatch.setattr(module, "_AGAIN", 3)
    database = make()
    numbers = iter(range(1_000))

    def commit(count: int) -> int:
        for _ in range(count):
            write(database, row=_numbered(next(numbers), "x" * 20_000))
        return (tmp_path / "journal.sqlite3-wal").stat().st_size

    commit(10)
    size = commit(10)
    for _ in range(5):
        assert commit(10) < 1.5 * size  # written over
    reader = sqlite3.connect(tmp_path / "journal.sqlite3", isolation_level=None)
    commit(5)
    reader.execute("begin")
    reader.execute("select count(*) from item").fetchone()
    commit(5)  # it is in the way of this checkpoint
    grown = commit(8)
    assert grown > size
    commit(10)
    assert commit(10) > 1.5 * size
    reader.execute("rollback")
    reader.close()
    most = commit(3)
    for _ in range(5):
        assert commit(10) == most
    with database.write_lock:
        found = database.open().execute("select count(*) from item").fetchone()
    assert found == (next(numbers),)


def test_length_is_seldom_asked(make: Callable[..., Database], monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask for the WAL's length makes the next sync slow, so most commits do without."""
    database = make()
    asked: list[str] = []
    ask = Path.stat

    def count(path: Path, **options: Any) -> os.stat_result:
        asked.append(path.name)
        return ask(path, **options)

    write(database)
    monkeypatch.setattr(Path, "stat", count)
    for number in range(1, 33):
        write(database, row=_numbered(number))
    assert asked.count("journal.sqlite3-wal") == 4


def _numbered(number: int, state: str | None = None) -> ItemRow:
    return ROW._replace(id=f"{number:024x}", state=state)


@pytest.mark.parametrize("answer", ["delete", "memory"])
def test_file_system_without_wal(
    make: Callable[..., Database], monkeypatch: pytest.MonkeyPatch, answer: Literal["delete"], tmp_path: Path
) -> None:
    """Where WAL cannot be had, the rollback journal is used, and the same things work."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> Any:
            if sql == "pragma journal_mode = wal":
                return super().execute("select ?", (answer,))
            return super().execute(sql, *args)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **how: real(*args, factory=Connection, **how))
    database = make()
    write(database)
    assert database.mode == "truncate"
    assert not (tmp_path / "journal.sqlite3-wal").exists()
    assert database.reader is not None
    assert queries.rows(database.reader) == [ROW]
    with database.write_lock:
        database.close()
        assert pragma(database.open(), "journal_mode") == "truncate"


def test_no_database(make: Callable[..., Database], tmp_path: Path) -> None:
    """Where the file is none, nothing stays open."""
    (tmp_path / "journal.sqlite3").write_bytes(b"something else entirely" * 1_000)
    database = make()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with database.write_lock, pytest.raises(sqlite3.DatabaseError, match="not a database"):
            database.open()
        assert (database.reader, database.writer) == (None, None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_folder_in_its_place(make: Callable[..., Database], tmp_path: Path) -> None:
    """A folder of that name cannot be opened; when it is gone, all works."""
    (tmp_path / "journal.sqlite3").mkdir()
    database = make()
    with database.write_lock, pytest.raises(sqlite3.OperationalError):
        database.open()
    (tmp_path / "journal.sqlite3").rmdir()
    write(database)


def test_empty_file(make: Callable[..., Database], tmp_path: Path) -> None:
    """A file that a power cut has left empty is made a journal."""
    (tmp_path / "journal.sqlite3").touch()
    database = make()
    write(database)
    assert database.reader is not None
    assert queries.rows(database.reader) == [ROW]


def test_schema_refuses_nonsense(database: Database) -> None:
    """A status that is none, two of one id, two in flight with one key: the file itself refuses them."""
    with database.write_lock:
        connection = database.begin(full=False)
        statements.insert_all(connection, [ROW])
        for wrong in ("paused", "", "interrupted"):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute("update item set status = ?", (wrong,))
        with pytest.raises(sqlite3.IntegrityError):
            statements.insert_all(connection, [ROW])
        connection.execute("update item set key = 'k'")
        second = _numbered(1)
        statements.insert_all(connection, [second])
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("update item set key = 'k'")
        connection.execute("update item set status = 'failed' where id = ?", (ROW.id,))
        connection.execute("update item set key = 'k' where id = ?", (second.id,))
        connection.execute("rollback")


def test_private_whatever_the_umask(database: Database, tmp_path: Path) -> None:
    """All files are their owner's alone."""
    before = os.umask(0)
    try:
        write(database)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
