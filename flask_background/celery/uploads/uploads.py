"""The uploads of items that other machines run: each is a file in a store that all of them can reach.

Its name is made of the item's id and a number, never of what a visitor sends. The item's message is sent
when its files are whole, so no worker sees half of one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Self

from flask_background.celery.uploads.stores import Store, store_at
from flask_background.concurrency import native
from flask_background.errors import UploadError

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.core.events import Events
    from flask_background.core.settings import Settings

#: How long the files of an item are kept that nobody ends, besides BACKGROUND_KEEP (seconds): an item may
#: wait for a worker for as long.
KEPT = 7 * 86_400.0

# A store that has not taken a piece of so many bytes for so many seconds is not waited for.
_PIECE = 1 << 20
_STALLED = 10.0
# How often a process looks for what nobody has removed, and how old that is at least, in seconds. What has
# been written for an item that is being enqueued is younger.
_SWEPT_EVERY = 3_600.0
_YOUNG = 3_600.0

_NAME = re.compile("([0-9a-f]{24})-[0-9]+")


class Uploads:
    """The files of one app's items."""

    def __init__(self, place: str, keep: float, events: Events) -> None:
        self.store = store_at(place)
        self._keep = keep
        self._events = events

    @classmethod
    def of(cls, settings: Settings, events: Events) -> Self | None:
        """The place that BACKGROUND_UPLOADS names, if it is set. Raises ConfigurationError."""
        return None if settings.uploads is None else cls(settings.uploads, settings.keep, events)

    def save(self, item_id: str, uploads: Sequence[FileStorage]) -> None:
        """Store them; raises UploadError, and leaves nothing then."""
        writer = _Writer(self.store, [_name(item_id, number) for number in range(len(uploads))])
        try:
            writer.start()
            for upload in uploads:
                while piece := upload.stream.read(_PIECE):
                    writer.write(piece)
                writer.write(b"")
            writer.end(is_kept=True)
        except BaseException as error:
            writer.end(is_kept=False)
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
            self._events.log_error(f"The uploads of item {item_id} could not be removed", error)

    def sweep(self, is_over: Callable[[str], bool]) -> None:
        """Remove, once in a while, the files of items that are over or were left. Raises nothing."""
        try:
            self._sweep(is_over)
        except Exception as error:
            self._events.log_error("Old uploads could not be looked through", error)

    def _sweep(self, is_over: Callable[[str], bool]) -> None:
        global _swept_at
        now = time.time()
        if now - _swept_at < _SWEPT_EVERY:
            return
        _swept_at = now
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


_swept_at = 0.0


def _name(item_id: str, number: int) -> str:
    return f"{item_id}-{number}"


def _remove(store: Store, names: Sequence[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):  # somebody else has
            store.remove(name)


class _Writer:
    """Writes files, one after the other, on a thread: a store may hang, as a network's folder does."""

    def __init__(self, store: Store, names: Sequence[str]) -> None:
        self._store, self._names = store, names
        self._pieces: native.SimpleQueue[bytes | None] = native.SimpleQueue()
        self._taken = native.Latch()
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if there can be none."""
        native.start_thread(self._run, "background-upload")

    def write(self, piece: bytes) -> None:
        """Have a piece written; an empty one ends the file. Raises what the store does, or TimeoutError."""
        self._taken = taken = native.Latch()
        self._pieces.put(piece)
        if self._error is None and not taken.wait(_STALLED):
            raise TimeoutError(f"it has taken nothing for {_STALLED:g} s")
        if self._error is not None:
            raise self._error

    def end(self, *, is_kept: bool) -> None:
        """Have all files kept, or removed as soon as the store goes on."""
        self._pieces.put(b"" if is_kept else None)

    def _run(self) -> None:
        try:
            for name in self._names:
                with self._store.write(name) as file:
                    while piece := self._pieces.get():
                        file.write(piece)
                        self._taken.open()
                    if piece is None:
                        raise TimeoutError
                self._taken.open()
            if self._pieces.get() is None:
                raise TimeoutError
        except BaseException as error:
            with suppress(Exception):  # then they are swept away later
                _remove(self._store, self._names)
            self._error = error
            self._taken.open()
