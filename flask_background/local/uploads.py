"""The uploads of items in memory, and their share of the process's descriptors.

An upload above 500 kB is an open file without a name. The first uploads are left as they are. When they have
used up their share, each further one is copied to a file with a name, which needs no descriptor while it
waits.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.item import WorkItem
from flask_background.errors import QueueFull

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

# The share of the process's descriptors that uploads may use.
_SHARE = 0.25
_CHUNK = 1 << 20


Copies = list[tuple["FileStorage", "FileAside"]]
"""Uploads, each with its copy."""


class UploadRoom:
    """Counts the descriptors of uploads, and puts uploads aside that would use up too many."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._held = 0
        self._of: dict[str, int] = {}  # the number of descriptors, by item

    def enter(self, item: WorkItem[Any]) -> Copies:
        """Count the uploads of an item, or return copies of them for ``put_aside``.

        Raises QueueFull if the uploads cannot be copied, and then leaves them unchanged.
        """
        uploads = [upload for upload in item._uploads or () if _has_descriptor(upload.stream)]
        if not uploads:
            return []
        share = resource.getrlimit(resource.RLIMIT_NOFILE)[0] * _SHARE
        with self._lock:
            fits = self._held + len(uploads) <= share or share < 0  # the process has no limit
            if fits:
                self._held += len(uploads)
                self._of[item.id] = len(uploads)
        if fits:
            return []
        copies: Copies = []
        try:
            for upload in uploads:
                copies.append((upload, FileAside(upload.stream)))
        except OSError as error:
            self.discard(item, copies)
            raise QueueFull(
                f"{item.task_name} was not enqueued: the uploads of waiting items have their share of this"
                f" process's descriptors (a quarter), and another one could not be copied: {error}. Raise the"
                " limit of open files, or the space for temporary files, or make the task durable"
            ) from error
        return copies

    def discard(self, item: WorkItem[Any], copies: Copies | None) -> None:
        """Forget an item that was not accepted, and its copies."""
        self.leave(item)
        for _, copy in copies or ():
            copy.close()

    def leave(self, item: WorkItem[Any]) -> None:
        """Forget an item that no longer needs its uploads."""
        if self._of and (count := self._of.pop(item.id, 0)):
            with self._lock:
                self._held -= count


def put_aside(copies: Copies) -> None:
    """Give uploads their copies, and close the files that they had."""
    for upload, copy in copies:
        upload.stream.close()
        upload.stream = copy  # type: ignore[assignment]


class FileAside:
    """A temporary file that is open only while it is used, and is removed when it is closed."""

    def __init__(self, source: Any) -> None:
        descriptor, self._path = tempfile.mkstemp(prefix="flask-background-")
        self._remove = weakref.finalize(self, _remove, self._path, os.getpid())
        self._file: Any = None
        self.closed = False
        try:
            with open(descriptor, "wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
            source.seek(0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close and remove the file."""
        self.closed = True
        self.rest()
        self._remove()

    def rest(self) -> None:
        """Close the file until it is used again, from its beginning."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._opened())

    def __enter__(self) -> FileAside:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._opened(), name)

    def _opened(self) -> Any:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._file is None:
            self._file = open(self._path, "r+b")  # noqa: SIM115  # close() closes it
        return self._file


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked process does not own the file
        with suppress(OSError):
            os.unlink(path)


def _has_descriptor(stream: Any) -> bool:
    """Return whether a stream is an open file; asking a spooled file for its descriptor would give it one."""
    if isinstance(stream, tempfile.SpooledTemporaryFile):
        return stream.name is not None
    try:
        return isinstance(stream.fileno(), int)
    except Exception:  # no file, or a closed one
        return False
