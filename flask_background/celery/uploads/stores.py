"""Where files lie that all machines of a cluster reach: a folder that they share, or a URL of fsspec's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from flask_background.errors import ConfigurationError

# The most that is kept in memory of what is written to a URL, in bytes: S3 takes no smaller parts.
_PART = 5 * 2**20


class Store(Protocol):
    """Files by their names. All of it may raise OSError, and what fsspec's file systems raise."""

    #: What it is called in errors, without a password.
    shown: str

    def write(self, name: str) -> Any:
        """A context with a new file, which is whole when that is left."""

    def read(self, name: str) -> IO[bytes]:
        """The file, opened."""

    def remove(self, name: str) -> None:
        """Remove the file; raises FileNotFoundError if there is none."""

    def written(self) -> Iterator[tuple[str, float]]:
        """The names of all files, and when each was written (``time.time()``)."""


class Folder:
    """A folder. Its files are private to the user that the app runs as, on all machines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = str(path)

    @contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        # The folder has to be there. Where a mount is missing, one that was made would be this machine's own.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(self._path / name, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a network's file system may not say before that it is full

    def read(self, name: str) -> IO[bytes]:
        return open(self._path / name, "rb")

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def written(self) -> Iterator[tuple[str, float]]:
        with os.scandir(self._path) as entries:
            for entry in entries:
                yield entry.name, entry.stat().st_mtime


class Remote:
    """A place that fsspec can reach."""

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


def store_at(place: str) -> Store:
    """The store that ``BACKGROUND_UPLOADS`` names. Raises ConfigurationError."""
    return _store_at(place, os.getpid())  # connections are not a forked process's


@lru_cache(maxsize=8)
def _store_at(place: str, pid: int) -> Store:
    return Folder(Path(place)) if place.startswith("/") else Remote(place)
