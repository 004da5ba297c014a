"""The errors of a failed use of the journal: the cause by its error number, and the cure."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from flask_background.durable.journal.folder import UnsafeError, user_name
from flask_background.errors import JournalError

_FULL = "the disk or the quota is full: free some space"
_READ_ONLY = (
    "the file system is mounted read-only: mount it writable, or set BACKGROUND_JOURNAL to another folder"
)
_DENIED = (
    "this process runs as user {user}, who may not write there: run all processes of the app as one user, and"
    " give the folder and all that is in it to that user (chown -R)"
)
_BROKEN = "the disk or the file system reports an I/O error: see the kernel's log"
_DESCRIPTORS = "the process has no file descriptors left: raise its limit (ulimit -n)"
_GONE = "the folder or a file in it is gone: restore it, or restart the processes of the app"
_NO_FOLDER = "a part of the path is not a folder: set BACKGROUND_JOURNAL to a folder"

_LOCKED = "another program holds a lock on the file (an sqlite3 shell, a backup): end that program"
_SCHEMA = "its tables are not those of its version, so another program has changed them: undo that"
_DAMAGED = "the file is damaged: move it away, and save what it still holds with sqlite3's .recover"
_FOREIGN = "the file is not an SQLite database: set BACKGROUND_JOURNAL to an empty folder"

_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EIO: _BROKEN,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: "a folder has the name of one of its files: remove that folder",
    errno.ENOLCK: "the file system gives no locks: set BACKGROUND_JOURNAL to a folder on a local disk",
}

_BY_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_IOERR: _BROKEN,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _FOREIGN,
    sqlite3.SQLITE_ERROR: _SCHEMA,
    sqlite3.SQLITE_SCHEMA: _SCHEMA,
    sqlite3.SQLITE_NOMEM: "the process has no memory left",
}


class RemovedError(OSError):
    """The journal's files were removed or replaced while this process used them."""


def explain_failure(error: Exception, path: Path) -> JournalError:
    """Return the error for a caller whose use of the journal file at this path failed with this error."""
    if isinstance(error, JournalError):  # each of several callers gets its own instance
        return JournalError(str(error))
    cause = _cause(error, path).format(user=user_name(os.geteuid()))
    return JournalError(f"the journal in {path.parent} cannot be used: {cause} ({error})")


def _cause(error: Exception, path: Path) -> str:
    if isinstance(error, RemovedError):
        return "another program has removed or replaced its files; this process opens them anew"
    if isinstance(error, UnsafeError):
        return "it is not safe from other users"
    if isinstance(error, TimeoutError):
        return (
            "another process of the app has been writing for too long: is it stopped, or its disk very slow?"
        )
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "the system refused it")
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # errors of the sqlite3 module itself have none
        if code == sqlite3.SQLITE_READONLY_DBMOVED:
            return _GONE
        code &= 0xFF
        if code == sqlite3.SQLITE_READONLY:
            return _read_only(path)
        if code == sqlite3.SQLITE_CANTOPEN:
            return _cannot_open(path)
        return _BY_SQLITE.get(code, "SQLite refused it")
    if isinstance(error, RuntimeError):
        return "the process cannot start a thread: raise its limits on threads and memory"
    return "something unexpected went wrong"


def _read_only(path: Path) -> str:
    """Return why SQLite cannot write: the file's mode or the file system, which SQLite does not say."""
    try:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return _READ_ONLY
    except OSError as error:
        return _BY_ERRNO.get(error.errno or 0, _DENIED)
    return _DENIED


def _cannot_open(path: Path) -> str:
    """Return why SQLite cannot open a file; SQLite hides the error number, so the system is asked again."""
    try:
        os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        return _BY_ERRNO.get(error.errno or 0, "the folder cannot be opened")
    if path.is_dir():
        return _BY_ERRNO[errno.EISDIR]
    if not path.exists():
        return _GONE
    return _DENIED
