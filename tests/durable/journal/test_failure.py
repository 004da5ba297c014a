"""The errors of a failed use of the journal, by their real cause."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from flask_background.durable.journal.database import FILE_NAME
from flask_background.durable.journal.failure import explain_failure
from flask_background.durable.journal.writer import Writer
from flask_background.errors import JournalError

from ...helpers import BOUND, ROOT, our_threads, until


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A writer with an open journal."""
    writer = Writer(tmp_path / "journal", power=True)
    writer.open()
    yield writer
    writer.close()
    writer.flush(BOUND)


def refusal(call: Callable[[], object]) -> str:
    """The message when this fails."""
    with pytest.raises(JournalError) as caught:
        call()
    return str(caught.value)


def write(
    writer: Writer, sql: str = "insert or replace into schedule (name, spec, next) values ('a', 'b', 1)"
) -> None:
    """Write something."""
    writer.write(lambda db: db.execute(sql))


def test_disk_full(writer: Writer) -> None:
    """No page can be added: the disk is full, and says so with SQLite's own words behind it."""
    text = "x" * 1_000_000

    def fill(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("pragma page_count").fetchone()
        db.execute(f"pragma max_page_count = {pages}")
        db.execute("insert into schedule (name, spec, next) values (?, 'b', 1)", (text,))

    said = refusal(lambda: writer.write(fill))
    assert said.startswith(f"the journal in {writer.folder} cannot be used: the disk or the quota is full")
    assert said.endswith("(database or disk is full)")


def test_schema(writer: Writer) -> None:
    """A column is missing: another program has changed the tables, and the disk is not blamed."""
    with closing(sqlite3.connect(writer.folder / FILE_NAME)) as connection:
        connection.execute("alter table schedule drop column spec")
    said = refusal(lambda: write(writer, "insert into schedule (name, spec, next) values ('a', 'b', 1)"))
    assert "its tables are not those of its version" in said
    assert "has no column named spec" in said
    assert "disk" not in said


def test_locked(writer: Writer) -> None:
    """Another program writes: that is named, and ending it helps."""
    with closing(sqlite3.connect(writer.folder / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        assert "another program holds a lock on the file" in refusal(lambda: write(writer))
    write(writer)


def test_damaged(tmp_path: Path) -> None:
    """A page that is not one: the file is damaged."""
    writer = Writer(tmp_path / "journal", power=True)
    write(writer)
    until(lambda: not our_threads())
    path = tmp_path / "journal" / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("select rootpage from sqlite_master where name = 'schedule'").fetchone()
        (size,) = connection.execute("pragma page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert "the file is damaged" in refusal(lambda: write(writer))


def test_no_descriptors(tmp_path: Path) -> None:
    """Not one more file can be opened: the limit is named, not the disk."""
    writer = Writer(tmp_path / "journal", power=True)
    write(writer)
    until(lambda: not our_threads())  # it closes the file
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[0]), limits[1]))
    try:
        with suppress(OSError):
            while True:
                used.append(os.dup(0))
        said = refusal(lambda: write(writer))
    finally:
        for descriptor in used:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "no file descriptors left" in said
    write(writer)


def test_folder_in_its_place(tmp_path: Path) -> None:
    """A folder has the file's name."""
    (tmp_path / FILE_NAME).mkdir()
    assert "a folder has the name of one of its files" in refusal(lambda: write(Writer(tmp_path, power=True)))


def test_file_in_the_folders_place(tmp_path: Path) -> None:
    """BACKGROUND_JOURNAL names a file."""
    (tmp_path / "journal").touch()
    for folder in (tmp_path / "journal", tmp_path / "journal" / "deeper"):
        assert "is not a folder" in refusal(lambda folder=folder: write(Writer(folder, power=True)))  # type: ignore[misc]


WRITE = """
import ctypes, sys
from pathlib import Path
from flask_background.durable.journal.writer import Writer
from tests.durable.journal.test_failure import write

# To root modes mean nothing, unless it gives this up (CAP_DAC_OVERRIDE is the second bit).
libc = ctypes.CDLL(None, use_errno=True)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
sets[0] &= ~2
assert libc.capset(header, sets) == 0
try:
    write(Writer(Path(sys.argv[1]), power=True))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_no_permission(tmp_path: Path, what: str) -> None:
    """A process that may not write there is told so."""
    folder = tmp_path / "journal"
    write(Writer(folder, power=True))
    until(lambda: not our_threads())
    (folder if what == "folder" else folder / FILE_NAME).chmod(0o500)
    words = [sys.executable, "-c", WRITE, folder]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=BOUND)
    assert ended.stdout.startswith(
        f"JournalError the journal in {folder} cannot be used: this process runs as user root (0), who"
    ), ended


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, "the disk or the quota is full"),
        (errno.EDQUOT, "the disk or the quota is full"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "may not write there"),
        (errno.EIO, "I/O error"),
        (errno.EMFILE, "no file descriptors left"),
        (errno.ENOENT, "is gone"),
        (errno.EXDEV, "the system refused it"),
    ],
)
def test_system_errors(tmp_path: Path, number: int, cause: str) -> None:
    """Each error number has its own sentence, and the system's text behind it."""
    said = str(explain_failure(OSError(number, os.strerror(number)), tmp_path / FILE_NAME))
    assert cause in said
    assert os.strerror(number) in said


def test_errors_of_the_module_itself(tmp_path: Path) -> None:
    """An error that SQLite has not raised has no number, and is told as it is."""
    said = str(explain_failure(sqlite3.ProgrammingError("closed"), tmp_path / FILE_NAME))
    assert "SQLite refused it (closed)" in said
