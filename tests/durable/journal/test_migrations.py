"""The journal's version: new, old, newer and foreign files, and processes of two versions that share one."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flask_background.core.status import Status
from flask_background.durable.journal import migrations, outbox, queries, statements
from flask_background.durable.journal.database import FILE_NAME, Mode
from flask_background.durable.journal.group_commit import Insert
from flask_background.durable.journal.migrations import APPLICATION_ID, MIGRATIONS, Migration
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.writer import Writer
from flask_background.errors import JournalError

from ...helpers import BOUND, ROOT
from ..rows import ROW

NEWEST = len(MIGRATIONS)
#: A journal as it was made before there were versions.
UNVERSIONED = MIGRATIONS[0].script


def row(number: int) -> ItemRow:
    """A new item."""
    return ROW._replace(id=f"{number:024x}", enqueued=4.0 + number)


def insert_old(connection: sqlite3.Connection, rows: Sequence[ItemRow]) -> None:
    """Enter rows as the code of version 1 did, with the columns of its table."""
    names = [name for _, name, *_ in connection.execute("pragma table_info(item)") if name != "number"]
    assert set(names) <= set(ItemRow._fields)
    marks = ", ".join(f":{name}" for name in names)
    connection.executemany(
        f"insert into item ({', '.join(names)}) values ({marks})", [one._asdict() for one in rows]
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is going to be."""
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder / FILE_NAME


@pytest.fixture
def make_file(path: Path) -> Callable[..., None]:
    """Makes a file in the journal's place by SQL, with some rows in it."""

    def make_file(script: str, rows: int = 0) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(script)
            if rows:
                insert_old(connection, [row(number) for number in range(rows)])

    return make_file


@pytest.fixture(params=["wal", "truncate"])
def make_writer(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], Writer]]:
    """Makes open writers to the journal, as different processes have them; in either mode."""
    mode: Mode = request.param
    made: list[Writer] = []

    def make_writer() -> Writer:
        writer = Writer(path.parent, power=False, mode=mode)
        writer.open()
        made.append(writer)
        return writer

    yield make_writer
    for writer in made:
        writer.close()


def stamp(path: Path) -> tuple[Any, ...]:
    """The application id of a file, its version, and the oldest version whose code may use it."""
    with closing(sqlite3.connect(path)) as connection:
        return (
            *connection.execute("pragma application_id").fetchone(),
            *connection.execute("pragma user_version").fetchone(),
            *connection.execute("select value from meta where name = 'compatible_from'").fetchone(),
        )


def digest(path: Path) -> str:
    """A digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(make_writer: Callable[[], Writer]) -> str:
    """The message about a file that cannot be used."""
    with pytest.raises(JournalError) as caught:
        make_writer()
    return str(caught.value)


def test_new_file(make_writer: Callable[[], Writer], path: Path) -> None:
    """A new journal says what it is, and has the newest version."""
    make_writer().write(Insert(row(0)))
    assert stamp(path) == (APPLICATION_ID, NEWEST, MIGRATIONS[-1].compatible_from)


def test_compatible_versions_only_grow() -> None:
    """No migration lets in code that the one before it has shut out; each lets in code of its own version."""
    froms = [migration.compatible_from for migration in MIGRATIONS]
    assert froms == sorted(froms)
    assert all(since <= version for version, since in enumerate(froms, 1))


@pytest.mark.parametrize("nonce", [0, 1_234_567])
def test_file_without_a_version(
    make_writer: Callable[[], Writer], make_file: Callable[..., None], path: Path, nonce: int
) -> None:
    """A journal that was made before the versions is migrated, with its rows, whatever user_version held."""
    make_file(f"pragma journal_mode = wal; {UNVERSIONED} pragma user_version = {nonce};", rows=3)
    writer = make_writer()
    writer.write(Insert(row(3)))
    assert writer.read(queries.rows) == [row(number) for number in range(4)]
    assert stamp(path) == (APPLICATION_ID, NEWEST, MIGRATIONS[-1].compatible_from)


def test_file_without_a_version_and_a_column(
    make_writer: Callable[[], Writer], make_file: Callable[..., None], path: Path
) -> None:
    """A journal that no migration begins with is left alone, and the error names what is missing."""
    make_file(UNVERSIONED + "alter table item drop column reason; alter table item add column colour text;")
    before = digest(path)
    said = refusal(make_writer)
    assert str(path) in said
    assert f"brought to version {NEWEST}" in said
    assert "not those of version 1: item lacks reason; item also has colour" in said
    assert digest(path) == before


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("pragma application_id = 77; create table t (a);", "its application id is 0x0000004d"),
        ("pragma application_id = -1;", "its application id is 0xffffffff"),
        ("create table users (a); create table posts (a);", "the tables posts, users"),
        ("create table item (id, price);", "the tables item"),
    ],
)
def test_foreign_file(
    make_writer: Callable[[], Writer], make_file: Callable[..., None], path: Path, script: str, why: str
) -> None:
    """Another program's database is left alone, and named."""
    make_file(script)
    before = digest(path)
    for _ in range(2):
        said = refusal(make_writer)
        assert f"{path} is not a journal of Flask-Background" in said
        assert why in said
        assert "BACKGROUND_JOURNAL" in said
    assert digest(path) == before
    path.unlink()
    make_writer().write(Insert(row(0)))


def test_no_database(make_writer: Callable[[], Writer], path: Path) -> None:
    """A file that SQLite cannot read is left alone, and the error says so."""
    path.write_bytes(b"something else entirely" * 1_000)
    said = refusal(make_writer)
    assert "not an SQLite database" in said
    assert str(path.parent) in said
    assert path.read_bytes() == b"something else entirely" * 1_000


def test_rows_of_the_outbox(
    make_writer: Callable[[], Writer], make_file: Callable[..., None], path: Path
) -> None:
    """Items of the outbox are moved as they are into a table of their own, whoever had claimed them."""
    make_file(UNVERSIONED, rows=1)
    waits = row(1)._replace(executor="celery:outbox", options='{"timeout": 2.5, "uploads": 1}', state="{}")
    old = [
        waits._replace(due=waits.enqueued),
        waits._replace(id="due", due=1_000.0, max_crashes=7),
        waits._replace(id="claimed", owner="1-a", fence=4, cancel=True, attempt=2),
        waits._replace(id="cancelled", status=Status.CANCELLED, finished=9.0),
        waits._replace(id="failed", status=Status.FAILED, finished=9.0, reason="too odd"),
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        insert_old(connection, old)
    writer = make_writer()
    assert writer.read(queries.rows) == [row(0)]
    new = {found.id: found for found in writer.read(outbox.rows)}
    assert new.keys() == {before.id for before in old}
    first = new[waits.id]
    assert first == outbox.OutboxRow(waits.id, "mail", "[[],{}]", first.options, "{}", None, waits.enqueued)
    assert json.loads(first.options) == {"timeout": 2.5, "uploads": 1, "max_crashes": 3}
    assert (new["due"].due, json.loads(new["due"].options)["max_crashes"]) == (1_000.0, 7)
    claimed = new["claimed"]
    assert (claimed.owner, claimed.fence, claimed.cancel, claimed.attempts) == ("1-a", 4, True, 2)
    assert (new["cancelled"].status, new["cancelled"].finished) == (Status.CANCELLED, 9.0)
    assert (new["failed"].status, new["failed"].reason) == (Status.FAILED, "too odd")
    assert writer.write(lambda db: statements.recover(db, "1-a", (), 5.0)) == (1, [])
    assert {found.id for found in writer.write(lambda db: outbox.claim(db, "2-b", 9))} == new.keys() - {
        "failed"
    }


NEWER = Migration("create table colour (name text);", compatible_from=NEWEST + 1)
COMPATIBLE = NEWER._replace(compatible_from=NEWEST)


@pytest.fixture
def migrate_by_newer_code(path: Path) -> Callable[[Migration], None]:
    """Lets a process whose code has one more migration open the journal."""

    def migrate(migration: Migration) -> None:
        program = (
            "import sys; from pathlib import Path\n"
            "from flask_background.durable.journal import migrations\n"
            "from flask_background.durable.journal.writer import Writer\n"
            "folder, script, since = sys.argv[1:]\n"
            "migrations.MIGRATIONS += (migrations.Migration(script, int(since)),)\n"
            "writer = Writer(Path(folder), power=False); writer.open(); writer.close(); writer.flush(9)\n"
        )
        words = [sys.executable, "-c", program, path.parent, migration.script, str(migration.compatible_from)]
        subprocess.run(words, cwd=ROOT, check=True, timeout=BOUND)
        with closing(sqlite3.connect(path)) as connection:  # which moves what is in the WAL to the file
            connection.execute("select * from meta").fetchall()

    return migrate


def test_newer_file(
    make_writer: Callable[[], Writer], migrate_by_newer_code: Callable[[Migration], None], path: Path
) -> None:
    """Code that a newer journal shuts out changes nothing, and names both versions and the file."""
    migrate_by_newer_code(NEWER)
    before = digest(path)
    said = refusal(make_writer)
    assert said.startswith(
        f"{path} has version {NEWEST + 1}, which needs code that knows version {NEWEST + 1}"
    )
    assert f"this process knows versions up to {NEWEST}" in said
    assert digest(path) == before
    assert stamp(path)[1] == NEWEST + 1


def test_newer_file_that_lets_us_in(
    make_writer: Callable[[], Writer], migrate_by_newer_code: Callable[[Migration], None], path: Path
) -> None:
    """Code that a newer journal still allows works with it as it is."""
    migrate_by_newer_code(COMPATIBLE)
    writer = make_writer()
    writer.write(Insert(row(0)))
    assert writer.read(queries.rows) == [row(0)]
    assert stamp(path)[1] == NEWEST + 1


def test_newer_file_that_does_not_say(
    make_writer: Callable[[], Writer], migrate_by_newer_code: Callable[[Migration], None], path: Path
) -> None:
    """A newer journal that says nothing of older code is refused."""
    migrate_by_newer_code(COMPATIBLE)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("delete from meta")
    assert f"has version {NEWEST + 1}, and this process knows" in refusal(make_writer)


def test_migrated_under_a_running_process(
    make_writer: Callable[[], Writer], migrate_by_newer_code: Callable[[Migration], None]
) -> None:
    """A running process whose journal is migrated goes on, if the migration allows that."""
    writer = make_writer()
    writer.write(Insert(row(0)))
    migrate_by_newer_code(COMPATIBLE)
    assert writer.read(queries.rows) == [row(0)]
    writer.write(Insert(row(1)))
    assert writer.read(queries.rows) == [row(0), row(1)]


def test_shut_out_while_running(
    make_writer: Callable[[], Writer], migrate_by_newer_code: Callable[[Migration], None], path: Path
) -> None:
    """A running process that a migration shuts out writes and reads nothing more, and says why."""
    writer = make_writer()
    writer.write(Insert(row(0)))
    migrate_by_newer_code(NEWER)
    for _ in range(2):
        with pytest.raises(JournalError, match=f"version {NEWEST + 1}.*up to {NEWEST}"):
            writer.read(queries.rows)
        with pytest.raises(JournalError, match=f"version {NEWEST + 1}.*up to {NEWEST}"):
            writer.write(Insert(row(1)))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)


def test_migration_that_fails(
    make_writer: Callable[[], Writer],
    make_file: Callable[..., None],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that fails in its middle leaves the version before it, and the next process goes on there."""
    make_file(UNVERSIONED, rows=2)
    broken = Migration("create table colour (name text); insert into nobody values (1);", NEWEST + 1)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, broken))
    assert "no such table: nobody" in refusal(make_writer)
    assert stamp(path)[1] == NEWEST
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, NEWER))
    assert make_writer().read(queries.rows) == [row(0), row(1)]
    assert stamp(path) == (APPLICATION_ID, NEWEST + 1, NEWEST + 1)


def test_processes_that_migrate_at_once(make_file: Callable[..., None], path: Path) -> None:
    """Of several that open an old journal at the same time each finds it migrated once, and can write."""
    make_file(f"pragma journal_mode = wal; {UNVERSIONED}", rows=50)
    program = (
        "import sys; from pathlib import Path; from functools import partial\n"
        "from flask_background.durable.journal import migrations\n"
        "from flask_background.durable.journal.writer import Writer\n"
        "from tests.durable.journal.test_migrations import row\n"
        "from flask_background.durable.journal.group_commit import Insert\n"
        "step = 'create table once (a); insert into once values (1);'\n"
        "migrations.MIGRATIONS += (migrations.Migration(step, 1),)\n"
        "writer = Writer(Path(sys.argv[1]), power=True)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "writer.open(); writer.write(Insert(row(int(sys.argv[2])))); writer.close(); writer.flush(9)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, path.parent, str(100 + number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=BOUND)
    assert [process.returncode for process in processes] == [0] * 4
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select * from once").fetchall() == [(1,)]
        assert connection.execute("select count(*) from item").fetchone() == (54,)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
