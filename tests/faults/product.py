"""The product, as the tools drive it: an app with a durable task."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_background import Background, Status, WorkItem, current_item, signals
from flask_background.durable.journal import database
from flask_background.durable.journal.migrations import MIGRATIONS
from flask_background.durable.journal.writer import Writer
from flask_background.errors import JournalError

from .child import Broken, EnqueueError
from .toys import rows

_ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
# How long to wait for all items to end, while the disk fails again and again, too.
_PATIENCE = 15.0


class Journal:
    """An app, with its journal in a folder."""

    def __init__(
        self,
        folder: Path,
        run: Callable[[str], None],
        done: Callable[[str], None],
        *,
        level: str = "power",
        mode: database.Mode = "wal",
        long: int | None = None,
        uploads: bool = False,
    ) -> None:
        if mode != "wal":  # as on a file system that cannot do WAL
            Writer.__init__.__kwdefaults__ = {"mode": mode}
        if long is not None:  # so many commits: make checkpoints often
            database._COMMITS = long
        self._uploads = uploads
        self._done = done
        self._names: dict[str, str] = {}
        self.app = Flask("faults")
        self.app.config.update(
            BACKGROUND_JOURNAL=folder, BACKGROUND_DURABILITY=level, BACKGROUND_WORKERS=1, BACKGROUND_KEEP=1e9
        )
        self.background = Background(self.app)

        @self.background.task(name="faults.run", durable=True)
        def task(item: str, upload: FileStorage | None = None) -> None:
            self._names[current_item.id] = item
            assert upload is None or upload.read() == _content(item)
            run(item)

        self._task = task
        signals.item_finished.connect(self._finished, self.app)
        self.app.test_client().get("/")  # and it looks for what others have left

    def _finished(self, app: Flask, item: WorkItem[Any]) -> None:
        if item.status is Status.SUCCEEDED:
            self._done(self._names.pop(item.id))

    def enqueue(self, item: str) -> list[str]:
        """As a view does it."""
        upload = FileStorage(io.BytesIO(_content(item)), f"{item}.txt") if self._uploads else None
        with self.app.app_context():
            try:
                self._task.enqueue(item, upload)
            except JournalError as error:
                raise EnqueueError(str(error)) from error
        return [item, f"{item}:upload"] if self._uploads else [item]

    def work(self, stop: threading.Event, idle: bool) -> None:
        """Wait: the app has its own threads."""
        end = time.monotonic() + _PATIENCE
        while not stop.wait(0.01):
            try:
                ended = not self._names and all(item.status in _ENDED for item in self.background.items())
            except JournalError:  # the disk fails
                ended = False
            if idle and (ended or time.monotonic() > end):
                return

    def close(self) -> None:
        """As at the end of a process."""
        self.background.stop(5.0)

    @classmethod
    def look(cls, folder: Path) -> set[str]:
        """All items, what became of them, and the uploads of those that may still run."""
        found = set()
        for name, payload, status in rows(folder, "select id, payload, status from item"):
            item = json.loads(payload)[0][0]
            found |= {item, f"{item}={status}"}
            upload = folder / "uploads" / name / "0"
            if status in ("succeeded", "failed") or (
                upload.exists() and upload.read_bytes() == _content(item)
            ):
                found.add(f"{item}:upload")
        return found


def _content(item: str) -> bytes:
    return item.encode() * 3_000


class Migrated(Journal):
    """The same, on a journal without a version, which has items already: they are promised, too."""

    OLD = ("old0", "old1")

    def __init__(self, folder: Path, *given: Any, **options: Any) -> None:
        if not (folder / database.FILE_NAME).exists():
            self._make_old(folder)
        super().__init__(folder, *given, **options)

    def _make_old(self, folder: Path) -> None:
        """In one piece, as it was there before this process began."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "old.sqlite3"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(MIGRATIONS[0].script)
            for index, name in enumerate(self.OLD):
                connection.execute(
                    "insert into item"
                    " (id, task, executor, options, payload, status, max_crashes, due, enqueued)"
                    " values (?, 'faults.run', 'thread', '{}', ?, 'queued', 9, 1, 1)",
                    (f"{index:024x}", json.dumps([[name, None], {}])),
                )
        path.rename(folder / database.FILE_NAME)

    def enqueue(self, item: str) -> list[str]:
        """The old ones are acknowledged as well."""
        return [*super().enqueue(item), *self.OLD]

    @classmethod
    def look(cls, folder: Path) -> set[str]:
        """As above; raises Broken if the old items are missing, whichever process was killed."""
        found = super().look(folder)
        if found and not found.issuperset(cls.OLD):
            raise Broken("what was there before the migration is gone")
        return found
