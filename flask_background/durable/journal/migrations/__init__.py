"""The journal's version: its place in the file, and the steps from one version to the next.

The file carries SQLite's ``application_id``, and its version in ``user_version``. Each migration also writes
``compatible_from`` into the table ``meta``: the oldest version whose code may still work with the file, so
that old and new processes can share it during a rolling deploy. A migration is one transaction, and the
caller holds the write lock.
"""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from flask_background.errors import JournalError

#: The number that distinguishes a journal from other SQLite files ("FlBg").
APPLICATION_ID = 0x466C4267

_CURE = "Set BACKGROUND_JOURNAL to an empty folder."
_META = "create table if not exists meta (name text primary key, value) without rowid"


# The columns of each table, and their types.
_Columns = dict[str, dict[str, str]]


class Migration(NamedTuple):
    """The step to one version from the version before it."""

    script: str
    #: The oldest version whose code may work with a journal of this version.
    compatible_from: int


def _read_script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


#: The step to version 1 comes first. A migration that was released never changes.
MIGRATIONS = (
    Migration(_read_script("0001_items.sql"), compatible_from=1),
    # Code of version 1 would not forward the items of the outbox.
    Migration(_read_script("0002_outbox.sql"), compatible_from=2),
    Migration(_read_script("0003_large_journals.sql"), compatible_from=2),
    Migration(_read_script("0004_monitoring.sql"), compatible_from=2),
)


def read_version(connection: sqlite3.Connection) -> int:
    """Return the version that the file has now."""
    (version,) = connection.execute("pragma user_version").fetchone()
    return int(version)


def check_journal(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file that this code can use or migrate; 0 if the file has none yet.

    Changes nothing. Raises JournalError for any other file.
    """
    (application_id,) = connection.execute("pragma application_id").fetchone()
    if application_id == APPLICATION_ID:
        return check_version(connection, path)
    if application_id:
        raise JournalError(
            f"{path} is not a journal of Flask-Background: its application id is"
            f" {application_id & 0xFFFFFFFF:#010x}, and a journal's is {APPLICATION_ID:#010x}. {_CURE}"
        )
    tables = _columns(connection)
    if not tables:
        return 0
    if "fence" not in tables.get("item", {}):
        raise JournalError(
            f"{path} is not a journal of Flask-Background: it has no application id, and the tables"
            f" {', '.join(sorted(tables))}. {_CURE}"
        )
    expected = _columns_of_version_1()
    if any(tables.get(name) != columns for name, columns in expected.items()):
        raise JournalError(
            f"{path} has no version, and cannot be brought to version {len(MIGRATIONS)}: its tables are"
            f" not those of version 1: {_difference(expected, tables)}. Let the code that made it finish its"
            f" items, then move the folder {path.parent} away."
        )
    return 0


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a journal that this code may work with. Raises JournalError if it is too new."""
    version, known = read_version(connection), len(MIGRATIONS)
    if version > known:
        found = connection.execute("select value from meta where name = 'compatible_from'").fetchone()
        if found is None or found[0] > known:
            since = (
                "" if found is None else f", which needs code that knows version {found[0]} or a newer one"
            )
            raise JournalError(
                f"{path} has version {version}{since}, and this process knows versions up to {known}. A"
                " newer Flask-Background has migrated it: install that one here, and restart this process."
            )
    return version


def migrate(connection: sqlite3.Connection, version: int) -> int:
    """Migrate a journal of this version to the newest one, each step in its own transaction; return that."""
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(
            f"begin immediate; {_META};\n{migration.script}\n;"
            f" insert or replace into meta values ('compatible_from', {migration.compatible_from});"
            f" pragma application_id = {APPLICATION_ID}; pragma user_version = {number}; commit;"
        )
    return max(version, len(MIGRATIONS))


def _columns(connection: sqlite3.Connection) -> _Columns:
    names = connection.execute(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite~_%' escape '~'"
    ).fetchall()
    query = "select name, lower(type) from pragma_table_info(?)"
    return {name: dict(connection.execute(query, (name,)).fetchall()) for (name,) in names}


def _columns_of_version_1() -> _Columns:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(MIGRATIONS[0].script)
        return _columns(connection)
    finally:
        connection.close()


def _difference(expected: _Columns, found: _Columns) -> str:
    """Return the tables and columns that are missing, and the columns that should not be there."""
    parts = []
    for name, columns in expected.items():
        has = found.get(name)
        if has is None:
            parts.append(f"there is no table {name}")
            continue
        if missing := sorted(columns.keys() - has.keys()):
            parts.append(f"{name} lacks {', '.join(missing)}")
        if extra := sorted(has.keys() - columns.keys()):
            parts.append(f"{name} also has {', '.join(extra)}")
        if changed := [column for column in columns if columns[column] != has.get(column, columns[column])]:
            parts.append(f"{name} has another type of {', '.join(changed)}")
    return "; ".join(parts)
