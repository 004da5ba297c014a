"""Records in a result backend that only stores and reads: a database, files, a cache.

Nothing is compared there in one step and nothing is listed. So an item is run at least once because Celery's
broker gives its message out again, and an item whose broker does so while its run goes on runs beside itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from flask_background.celery.records.base import Records, RunId, reaching
from flask_background.celery.records.record import Record
from flask_background.core.status import Status

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.core.settings import Settings

# For how long an item is put off that a worker cannot run, in seconds.
_PUT_OFF = 30.0


class ResultRecords(Records):
    """The records of an app's items, each stored as the result of a Celery task of that name."""

    is_full = False

    def __init__(self, celery: Celery, settings: Settings) -> None:
        self._backend = celery.backend

    def put(self, item_id: str, record: Record, *, message_follows: bool) -> str | None:
        if self.read(item_id) is None:
            self._write(item_id, record)
        return None

    def withdraw(self, item_id: str) -> bool:
        record = self.read(item_id)
        if record is not None and record.status is not Status.QUEUED:
            return False
        if record is not None:
            reason = "refused: the broker did not answer"
            self._end(item_id, record._replace(status=Status.CANCELLED, reason=reason))
        return True

    def read(self, item_id: str) -> Record | None:
        fields = self._load(f"{item_id}.item")
        return Record.of_fields(fields) if isinstance(fields, dict) else None

    def claim(self, run: RunId, limit: float | None, sent: Record | None) -> Record | None:
        record = self.read(run.item_id) or sent
        if record is None or record.status.is_final or (record.due or 0.0) > time.time():
            return None
        # Its message has come again while it is said to run: that run's process is dead.
        crashes = record.crashes + (record.status is Status.RUNNING)
        running = record._replace(
            status=Status.RUNNING,
            attempt=record.attempt + 1,
            crashes=crashes,
            started=time.time(),
            due=None,
            run=run.token,
            limit=limit,
            progress=None,
            error=None,
        )
        # In this order: whoever cancels asks for it first, and then looks whether the item is queued.
        self._write(run.item_id, running)
        if record.status is Status.QUEUED and self._load(f"{run.item_id}.cancel"):
            self._end(run.item_id, record._replace(status=Status.CANCELLED))
            return None
        return running if sent is None else running._replace(payload=sent.payload)

    def defer(self, item_id: str) -> None:
        record = self.read(item_id)
        if record is not None and record.status is Status.QUEUED:
            self._write(item_id, record._replace(due=time.time() + _PUT_OFF))

    def settle(
        self,
        run: RunId,
        status: Status,
        due: float | None = None,
        *,
        only_if_silent: bool = False,
        **fields: Any,
    ) -> bool:
        record = self._of_run(run)
        if record is not None:
            finished = time.time() if status.is_final else None
            self._write(run.item_id, record._replace(status=status, due=due, finished=finished, **fields))
        return record is not None

    def report(self, run: RunId, progress: str) -> None:
        if (record := self._of_run(run)) is not None:
            self._write(run.item_id, record._replace(progress=progress))

    def cancel(self, item_id: str, *, force: bool = False) -> Literal["cancelled", "asked"] | None:
        self._store(f"{item_id}.cancel", True)
        record = self.read(item_id)
        if record is None or record.status.is_final:
            return None
        if record.status is Status.RUNNING and not force:
            return "asked"
        self._end(item_id, record._replace(status=Status.CANCELLED))
        return "cancelled"

    def beat(self, runs: Sequence[RunId], *, is_stopping: bool) -> list[bool]:
        return [bool(self._load(f"{run.item_id}.cancel")) for run in runs]

    def _of_run(self, run: RunId) -> Record | None:
        record = self.read(run.item_id)
        is_mine = record is not None and record.status is Status.RUNNING and record.run == run.token
        return record if is_mine else None

    def _end(self, item_id: str, record: Record) -> None:
        self._write(item_id, record._replace(finished=time.time()))

    def _write(self, item_id: str, record: Record) -> None:
        self._store(f"{item_id}.item", record._replace(payload=None).as_fields())

    def _load(self, name: str) -> Any:
        with reaching():
            return self._backend.get_task_meta(name, cache=False)["result"]

    def _store(self, name: str, value: Any) -> None:
        with reaching():
            self._backend.store_result(name, value, "STARTED")
