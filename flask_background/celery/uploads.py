"""The uploads of items that other machines run: each is a file in a store that all of them can reach.

The store is a folder that the machines share, or a URL of fsspec's. A file's name is made of the item's id
and a number, never of what a visitor sends. The item's message is sent when its files are whole, so no worker
sees half of one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from flask_background.concurrency import native
from flask_background.errors import ConfigurationError, UploadError

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.core.events import Events

#: How long the files of an item are kept that nobody ends, besides BACKGROUND_KEEP (seconds): an item may
#: wait for a worker for as long.
KEPT = 7 * 86_400.0

# The size of the pieces in which an upload is written, in bytes. A store that does not take a piece within so
# many seconds is not waited for.
_PIECE = 1 << 20
_STALLED = 10.0
# The most that is kept in memory of what is written to a URL, in bytes: S3 takes no smaller parts.
_PART = 5 * 2**20
# How often a process looks for what nobody has removed, and how old that is at least, in seconds. What has
# been written for an item that is being enqueued is younger.
_SWEPT_EVERY = 3_600.0
_YOUNG = 3_600.0

_NAME = re.compile("([0-9a-f]{24})-[0-9]+")


class Folder:
    """A store in a folder, whose files are private to the user that the app runs as, on all machines.

    All methods may raise OSError, and those of a store at a URL what fsspec's file systems raise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: What the store is called in errors, without a password.
        self.shown = str(path)

    @contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """Write a new file in the context, after which it is whole."""
        # The folder has to be there. Where a mount is missing, one that was made would be this machine's own.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(self._path / name, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a network's file system may not say before that it is full

    def read(self, name: str) -> IO[bytes]:
        """Open a file."""
        return open(self._path / name, "rb")

    def remove(self, name: str) -> None:
        """Remove a file; raises FileNotFoundError if there is none."""
        (self._path / name).unlink()

    def written(self) -> Iterator[tuple[str, float]]:
        """The names of all files, and when each was written (``time.time()``)."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                yield entry.name, entry.stat().st_mtime


class Remote:
    """A store that fsspec can reach."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ConfigurationError(
                f"BACKGROUND_UPLOADS is {self.shown}, which takes fsspec: pip install"
                " flask-background[uploads], or name a folder that all machines share"
            ) from error
        try:
            # Other machines write there as well, so no list of what is there may be kept.
            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # its message names the package that is missing
            raise ConfigurationError(f"BACKGROUND_UPLOADS is {self.shown}, which fails: {error}") from error

    @contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        with self._files.open(self._at(name), "wb", block_size=_PART) as file:
            yield file

    def read(self, name: str) -> IO[bytes]:
        file: IO[bytes] = self._files.open(self._at(name), "rb")
        return file

    def remove(self, name: str) -> None:
        self._files.rm_file(self._at(name))

    def written(self) -> Iterator[tuple[str, float]]:
        for path in self._files.ls(self._root, detail=False):
            yield path.rpartition("/")[2], self._files.modified(path).timestamp()

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


Store = Folder | Remote


def store_at(place: str) -> Store:
    """The store that ``BACKGROUND_UPLOADS`` names. Raises ConfigurationError."""
    return Folder(Path(place)) if place.startswith("/") else Remote(place)


class Uploads:
    """The files of one app's items, in the store that ``BACKGROUND_UPLOADS`` names."""

    def __init__(self, place: str, keep: float, events: Events) -> None:
        """Find the store. Raises ConfigurationError."""
        self.store = store_at(place)
        self._keep = keep
        self._events = events
        self._swept_at = 0.0

    def save(self, item_id: str, uploads: Sequence[FileStorage]) -> None:
        """Store them; raises UploadError, and leaves nothing then."""
        files = {_name(item_id, number): upload.stream for number, upload in enumerate(uploads)}
        copying = _Copying(self.store, files)
        try:
            native.start_thread(copying.run, "background-upload")
            copying.wait()
        except BaseException as error:
            copying.give_up()
            if not isinstance(error, Exception):
                raise
            raise UploadError(
                f"an upload could not be stored in {self.store.shown}: {type(error).__name__}: {error}"
            ) from error

    def open(self, item_id: str, number: int) -> IO[bytes]:
        """The file of one of them. Raises what the store does."""
        return self.store.read(_name(item_id, number))

    def remove(self, item_id: str, count: int) -> None:
        """Remove as many as there still are. Raises what the store does."""
        _remove(self.store, [_name(item_id, number) for number in range(count)])

    def discard(self, item_id: str, count: int) -> None:
        """Remove the files of an item that has ended. Raises nothing: what stays is swept away later."""
        if not count:
            return
        try:
            self.remove(item_id, count)
        except Exception as error:
            self._events.log_error(f"The uploads of item {item_id} could not be removed", error, item_id)

    def sweep(self, is_over: Callable[[str], bool]) -> None:
        """Remove, once in a while, the files of items that are over or were left. Raises nothing."""
        now = time.time()
        if now - self._swept_at < _SWEPT_EVERY:
            return
        self._swept_at = now
        try:
            self._sweep(is_over, now)
        except Exception as error:
            self._events.log_error("Old uploads could not be looked through", error)

    def _sweep(self, is_over: Callable[[str], bool], now: float) -> None:
        known: dict[str, bool] = {}
        for name, at in list(self.store.written()):
            match = _NAME.fullmatch(name)  # others may keep files of theirs there
            if match is None or now - at < _YOUNG:
                continue
            item_id = match[1]
            if now - at < self._keep + KEPT and item_id not in known:
                known[item_id] = is_over(item_id)
            if known.get(item_id, True):
                _remove(self.store, [name])


def _name(item_id: str, number: int) -> str:
    return f"{item_id}-{number}"


def _remove(store: Store, names: Iterable[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):  # somebody else has
            store.remove(name)


class _Copying:
    """Copies uploads to a store on a thread of its own: a store may hang, as a network's folder does."""

    def __init__(self, store: Store, files: Mapping[str, IO[bytes]]) -> None:
        self._store, self._files = store, files
        self._lock = native.new_lock()
        self._moved_at = time.monotonic()
        self._is_unwanted = False
        self._error: BaseException | None = None
        self._ended = native.Latch()

    def wait(self) -> None:
        """Wait for the end. Raises what the store does, or TimeoutError."""
        while not self._ended.wait(max(0.0, self._moved_at + _STALLED - time.monotonic())):
            if time.monotonic() > self._moved_at + _STALLED and self.give_up():
                raise TimeoutError(f"it has taken nothing for {_STALLED:g} s")
        if self._error is not None:
            raise self._error

    def give_up(self) -> bool:
        """Have the files removed as soon as the store goes on. False if all has ended."""
        with self._lock:
            self._is_unwanted = True
            return not self._ended.wait(0)

    def run(self) -> None:
        """Copy all files, or leave none."""
        try:
            for name, stream in self._files.items():
                with self._store.write(name) as file:
                    while piece := self._read(stream):
                        file.write(piece)
                        self._moved_at = time.monotonic()
            with self._lock:
                self._go_on()
                self._ended.open()
        except BaseException as error:
            with suppress(Exception):  # then they are swept away later
                _remove(self._store, self._files)
            self._error = error
            self._ended.open()

    def _read(self, stream: IO[bytes]) -> bytes:
        self._go_on()  # the view may read its upload again once it knows that this was given up
        return stream.read(_PIECE)

    def _go_on(self) -> None:
        if self._is_unwanted:
            raise TimeoutError
