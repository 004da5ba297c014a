"""The product's journal, as the tools drive it."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from flask_background.errors import JournalError
from flask_background.journal import database, store
from flask_background.journal.entry import Entry
from flask_background.journal.writer import Insert, Step, Writer
from flask_background.status import Status

from .child import Refused
from .toys import Owner, rows

_TASK = "faults.run"
# What runs the items here, and how many of them are claimed at once.
_ROOM = {"thread": 2}


class Journal:
    """The journal in a folder."""

    def __init__(
        self, folder: Path, *, power: bool = True, mode: database.Mode = "wal", long: int | None = None
    ) -> None:
        if long is not None:  # of the WAL: make checkpoints often
            database._LONG, database._AGAIN = long, 0.0
        self._writer = Writer(folder, power=power, mode=mode)
        folder.mkdir(exist_ok=True)
        self._owner = Owner(folder / "owners")

    def enqueue(self, item: str) -> list[str]:
        """As a view does it."""
        now = time.time()
        entry = Entry(
            id=secrets.token_hex(12),
            task=_TASK,
            executor="thread",
            options="{}",
            payload=item,
            state="x" * 300,
            status=Status.QUEUED,
            max_crashes=3,
            due=now,
            enqueued=now,
        )
        try:
            self._writer.do(cast(Step[None], Insert(entry)))
        except JournalError as error:
            raise Refused(str(error)) from error
        return [item]

    def work(
        self, run: Callable[[str], None], done: Callable[[str], None], stop: threading.Event, idle: bool
    ) -> None:
        """As a worker process does it, with one thread."""
        while not stop.is_set():
            try:
                entries = self._writer.do(self._claim, sync=False)
            except JournalError:
                stop.wait(0.05)
                continue
            for entry in entries:
                self._run(entry, run, done)
            if not entries:
                # What is not finished yet, as the disk fails, may come again.
                if self._writer.flush(30) and idle and not self._live():
                    return
                stop.wait(0.005)

    def _claim(self, db: sqlite3.Connection) -> list[Entry]:
        owners = db.execute("select owner, id, status from item where owner is not null").fetchall()
        for owner in {owner for owner, _, _ in owners}:
            if self._owner.is_dead(owner):
                running = [row[1] for row in owners if row[0] == owner and row[2] == "running"]
                store.recover(db, owner, running, time.time())
        return store.claim(db, self._owner.id, _ROOM, [_TASK], time.time())

    def _run(self, entry: Entry, run: Callable[[str], None], done: Callable[[str], None]) -> None:
        while True:
            try:
                mine = self._writer.do(partial(_start, entry), sync=False)
                break
            except JournalError:
                time.sleep(0.05)
        if mine:
            run(entry.payload)
            self._writer.later(partial(_finish, entry), lambda kept: done(entry.payload) if kept else None)

    def _live(self) -> bool:
        return bool(self._writer.read(lambda db: db.execute(
            "select 1 from item where status in ('queued', 'running') limit 1"
        ).fetchall()))  # fmt: skip

    def close(self) -> None:
        """End in good order."""
        self._writer.flush(10)
        self._writer.close()
        self._owner.close()

    @classmethod
    def look(cls, folder: Path) -> set[str]:
        """All items, and what became of them."""
        found = rows(folder, "select payload, status from item")
        return {item for item, _ in found} | {f"{item}={status}" for item, status in found}


def _start(entry: Entry, db: sqlite3.Connection) -> bool:
    return store.start(db, entry.id, entry.fence, time.time())


def _finish(entry: Entry, db: sqlite3.Connection) -> bool:
    return store.finish(db, entry.id, entry.fence, Status.SUCCEEDED, time.time())
