"""The uploads of durable items: files in one folder per item, beside the journal."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from flask_background.durable.journal.database import sync_folder
from flask_background.errors import JournalError
from flask_background.payload.calls import pack_call, unpack_call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from werkzeug.datastructures import FileStorage

    from flask_background.durable.journal.row import ItemRow

_CHUNK = 1 << 20


class UploadFolder:
    """Packs the arguments of items, and keeps their uploads.

    ``sync``: uploads have to be on disk, not only in the system's cache, before an item is accepted.
    """

    def __init__(self, folder: Path, max_bytes: int, *, sync: bool) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self._sync = sync

    def pack(self, item_id: str, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[str, bool]:
        """Return the call as text, and whether it has uploads, which are then in their files.

        Raises ArgumentError for arguments that are not data, and JournalError if a file cannot be written.
        """
        payload, uploads = pack_call(func, args, kwargs, self.max_bytes)
        if uploads:
            try:
                self._save(item_id, uploads)
            except OSError as error:
                self.forget(item_id)
                raise JournalError(f"an upload could not be written beside the journal: {error}") from error
        return payload, bool(uploads)

    def unpack(self, row: ItemRow) -> tuple[tuple[Any, ...], dict[str, Any], list[FileStorage]]:
        """Return the arguments of an item, and the uploads among them, whose files are open."""
        return unpack_call(row.payload, lambda number: open(self._folder / row.id / str(number), "rb"))

    def forget(self, item_id: str) -> None:
        """Remove an item's uploads."""
        shutil.rmtree(self._folder / item_id, ignore_errors=True)

    def orphans(self, before: float) -> list[str]:
        """Return the ids of items whose uploads were here before this time (``time.time()``)."""
        try:
            return [path.name for path in self._folder.iterdir() if path.stat().st_mtime < before]
        except FileNotFoundError:
            return []

    def _save(self, item_id: str, uploads: list[FileStorage]) -> None:
        folder = self._folder / item_id
        self._folder.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        for number, upload in enumerate(uploads):
            descriptor = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                shutil.copyfileobj(upload.stream, file, _CHUNK)
                file.flush()
                if self._sync:
                    os.fsync(descriptor)
        if self._sync:
            for path in (folder, self._folder, self._folder.parent):
                sync_folder(path)
