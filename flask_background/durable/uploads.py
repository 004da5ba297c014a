"""A durable item's arguments and uploads as data, and back; what the journal knows of its last attempt."""

from __future__ import annotations

import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from werkzeug.datastructures import FileStorage, Headers

from flask_background.core.status import Attempt, Status
from flask_background.durable.journal.database import sync_folder
from flask_background.durable.journal.row import ItemRow
from flask_background.errors import ItemCancelledError, JournalError
from flask_background.payload import data
from flask_background.payload.outcomes import error_of, parked_error, progress_of, result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_background.core.item import WorkItem
    from flask_background.core.request_state import RequestState

_CHUNK = 1 << 20


class UploadFolder:
    """Packs what items get and give. Uploads become files in a folder of the item's own.

    ``sync``: they have to be on disk, not only in the system's cache, before the item is accepted.
    """

    def __init__(self, folder: Path, max_bytes: int, *, sync: bool) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self._sync = sync

    def pack(self, item_id: str, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[str, bool]:
        """The call as text, and whether it has uploads, which are on disk then.

        Raises ArgumentError for what is not data, and JournalError if an upload cannot be written.
        """
        payload, uploads = pack_call(func, args, kwargs, self.max_bytes)
        if uploads:
            try:
                self._save(item_id, uploads)
            except OSError as error:
                self.forget(item_id)
                raise JournalError(f"an upload could not be written beside the journal: {error}") from error
        return payload, bool(uploads)

    def unpack(self, entry: ItemRow) -> tuple[tuple[Any, ...], dict[str, Any], list[FileStorage]]:
        """The arguments, made anew, and the uploads among them, which are open then."""
        return unpack_call(entry.payload, lambda number: open(self._folder / entry.id / str(number), "rb"))

    def forget(self, item_id: str) -> None:
        """Remove an item's uploads."""
        shutil.rmtree(self._folder / item_id, ignore_errors=True)

    def orphans(self, before: float) -> list[str]:
        """The ids of items whose uploads have been here since before then (``time.time()``)."""
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


def pack_call(
    func: Callable[..., Any], args: Any, kwargs: Any, max_bytes: int
) -> tuple[str, list[FileStorage]]:
    """The call as text, and the uploads in it, to which the text refers by their number.

    Raises ArgumentError for what is not data.
    """
    uploads: list[FileStorage] = []

    def refer(upload: FileStorage) -> dict[str, Any]:
        uploads.append(upload)
        headers = [list(pair) for pair in upload.headers]
        return {
            "n": len(uploads) - 1,
            "filename": upload.filename,
            "name": upload.name,
            "headers": headers,
        }

    return data.dump_call(func, args, kwargs, replace=refer, max_bytes=max_bytes), uploads


def unpack_call(
    payload: str, open_file: Callable[[int], IO[bytes]]
) -> tuple[tuple[Any, ...], dict[str, Any], list[FileStorage]]:
    """The arguments, made anew, and the uploads among them, whose files are open then."""
    opened: list[FileStorage] = []

    def reopen(reference: dict[str, Any]) -> FileStorage:
        headers = Headers([tuple(pair) for pair in reference["headers"]])
        upload = FileStorage(open_file(int(reference["n"])), name=reference["name"], headers=headers)
        upload.filename = reference["filename"]  # if None, it would be made the path of the file
        opened.append(upload)
        return upload

    try:
        args, kwargs = data.load_call(payload, rebuild=reopen)
    except BaseException:
        for upload in opened:
            upload.close()
        raise
    return args, kwargs, opened


def entry_of(
    item: WorkItem[Any], task: Any, *, payload: str, uploads: bool, due: float, owner: str | None
) -> ItemRow:
    """A new item as the journal has it; with an owner it has been claimed."""
    options = task.options
    return ItemRow(
        id=item.id,
        task=task.name,
        executor=task.executor,
        options=_options_text(
            options.timeout, options.max_attempts, None if callable(options.backoff) else (options.backoff,)
        ),
        payload=payload,
        uploads=uploads,
        state=data.dump_state(item.state) if item.state else None,
        key=options.key,
        status=Status.QUEUED,
        owner=owner,
        fence=0 if owner is None else 1,
        max_crashes=options.max_crashes,
        due=due,
        enqueued=item._enqueued,
    )


@lru_cache(maxsize=256)
def _options_text(timeout: float | None, max_attempts: int, backoff: tuple[float | None] | None) -> str:
    """What an item keeps of its task's options. A function for the backoff is no data."""
    options = {"timeout": timeout, "max_attempts": max_attempts}
    return json.dumps(options if backoff is None else {**options, "backoff": backoff[0]})


def state_of(entry: ItemRow) -> RequestState | None:
    """The state of the request that enqueued it."""
    return None if entry.state is None else data.load_state(entry.state)


def attempt_of(entry: ItemRow) -> Attempt:
    """The last attempt, as far as the journal knows it."""
    attempt = Attempt(entry.started)
    attempt.number = entry.attempt
    attempt.finished = entry.finished
    if entry.progress is not None:
        attempt.progress = progress_of(entry.progress)
    if entry.status is Status.SUCCEEDED and entry.result is not None:
        attempt.value, attempt.error = result_of(entry.result)
    elif entry.status is Status.FAILED:
        attempt.error = _error_of(entry)
    elif entry.status is Status.CANCELLED:
        attempt.error = ItemCancelledError(f"item {entry.id} ({entry.task}) was cancelled")
    return attempt


def _error_of(entry: ItemRow) -> BaseException:
    name = f"item {entry.id} ({entry.task})"
    if entry.error is None:
        return parked_error(entry.id, entry.task, entry.reason)
    return error_of(entry.error, name)
