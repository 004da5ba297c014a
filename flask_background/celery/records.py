"""The records of items in Celery's result backend, whatever that is.

A record lies under the item's id, which is the Celery task's, as its result: so Celery's own tools see the
state, and a failure as one. That somebody wants its end lies beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.backends.base import BaseKeyValueStoreBackend

from flask_background.celery.record import Record
from flask_background.celery.redis import records as quick
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from celery import Celery

# What Celery calls them. Its RETRY, between two attempts, would have to be an exception.
_STATES = {
    Status.QUEUED: "PENDING",
    Status.RUNNING: "STARTED",
    Status.SUCCEEDED: "SUCCESS",
    Status.FAILED: "FAILURE",
    Status.CANCELLED: "REVOKED",
}


class Failure(Exception):
    """What Celery is told of a failed item: the text, and the item's record, which Celery stores with it."""

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"Failure({self.args[0]!r})"


class Changed(Exception):
    """Somebody else has changed a record since it was read."""


class Records:
    """Reads and writes them. Everything may raise BrokerError."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def read(self, item_id: str) -> Record | None:
        """An item's record, if there is one."""
        return self.see(item_id)[0]

    def see(self, item_id: str) -> tuple[Record | None, bytes | None]:
        """The same, and how it stands there, where the backend can compare: see ``begin_run``."""
        with reaching():
            if quick.is_quick(self._celery):
                text = quick.read(self._celery, item_id)
                return self.told(text), text
            return _record_of(self._celery.backend.get_task_meta(item_id, cache=False)), None

    def told(self, text: bytes | None) -> Record | None:
        """The record that a text is which stands in Redis, or was published there."""
        return _record_of(quick.meaning(self._celery, text))

    def first(self, item_id: str, record: Record) -> bytes | None:
        """How ``begin`` has written it, where the backend can compare."""
        if not quick.is_quick(self._celery):
            return None
        return quick.text_of(self._celery, item_id, record.as_data(), _STATES[record.status])

    def begin(self, item_id: str, record: Record) -> None:
        """Write the first record of an item that nobody knows yet."""
        with reaching():
            if quick.is_quick(self._celery):
                state = _STATES[record.status]
                quick.put(self._celery, item_id, record.as_data(), state, _seconds_left(record))
                return
            self.write(item_id, record)

    def begin_run(self, item_id: str, record: Record, seen: bytes | None) -> bool:
        """Put on record that an item runs, and say whether somebody wants its end.

        In this order: who asks, asks first, and then looks whether it is queued. Raises Changed if there is
        not what was seen, so that of several messages that come at the same moment one begins a run. Redis
        alone can do that: elsewhere the last one that writes does.
        """
        with reaching():
            if quick.is_quick(self._celery):
                state, asked = _STATES[record.status], _asking(item_id)
                answer = quick.exchange(self._celery, item_id, seen, record.as_data(), state, asked)
                if answer is None:
                    raise Changed(f"the record of item {item_id} has changed")
                return answer
            self.write(item_id, record)
            return self.is_asked_to_end(item_id)

    def write(self, item_id: str, record: Record) -> None:
        """Put an item's record in the place of the last one."""
        result: Any = record.as_data()
        if record.status in (Status.FAILED, Status.CANCELLED):
            text = str(record.attempt_of(item_id).error)
            result = {"exc_type": "Failure", "exc_module": __name__, "exc_message": [text, result]}
        if record.status is Status.SUCCEEDED and quick.is_quick(self._celery):
            with reaching():
                quick.put_success(self._celery, item_id, result)
        else:
            self._store(item_id, result, _STATES[record.status])
        if seconds := _seconds_left(record):
            with reaching():
                self._keep(item_id, seconds)

    def ask_to_end(self, item_id: str) -> None:
        """Whoever runs the item, or will, is to end it."""
        self._store(_asking(item_id), True, "PENDING")

    def is_asked_to_end(self, item_id: str) -> bool:
        """Whether somebody wants the item's end."""
        return bool(self._meta(_asking(item_id))["result"])

    def _keep(self, item_id: str, seconds: int) -> None:
        """Let the record live longer by that, where the backend gives each a time to live."""
        backend = self._celery.backend
        if isinstance(backend, BaseKeyValueStoreBackend) and backend.expires:
            backend.expire(backend.get_key_for_task(item_id), seconds + backend.expires)

    def _meta(self, key: str) -> dict[str, Any]:
        with reaching():
            meta: dict[str, Any] = self._celery.backend.get_task_meta(key, cache=False)
        return meta

    def _store(self, key: str, result: Any, state: str) -> None:
        with reaching():
            self._celery.backend.store_result(key, result, state)


def _seconds_left(record: Record) -> int:
    """Until the item's message comes, which is to find the record, also of an item that was cancelled."""
    return 0 if record.due is None else max(0, math.ceil(record.due - time.time()))


def _record_of(meta: dict[str, Any]) -> Record | None:
    """The record that Celery has as a task's result."""
    found = meta["result"]
    if meta["status"] == "RETRY":  # Celery's own, of a run that a stopping worker has cut: it comes again
        return None
    if isinstance(found, BaseException):
        kept = found.args[-1] if found.args else None
        return Record.of(kept) if isinstance(kept, dict) else _of_foreign(meta["status"], found)
    return Record.of(found) if isinstance(found, dict) and "status" in found else None


def _of_foreign(state: str, error: BaseException) -> Record:
    """What Celery has written itself: of a run that it killed or revoked, or a task that no worker has."""
    if state == _STATES[Status.CANCELLED]:
        return Record("?", Status.CANCELLED, 0.0, reason=f"cancelled by Celery: {error}")
    kind, message = type(error).__name__, str(error)
    if kind == "TimeLimitExceeded":
        kind = "flask_background.errors.ItemTimeoutError"
    elif kind == "NotRegistered":
        message += (
            ": the worker has no such task. Make it where the app is loaded; renew workers before sites"
        )
    text = json.dumps({"type": kind, "message": message, "trace": ""})
    return Record("?", Status.FAILED, 0.0, error=text)


def _asking(item_id: str) -> str:
    return f"{item_id}.cancel"


@contextmanager
def reaching() -> Iterator[None]:
    """Raise what goes wrong inside as BrokerError."""
    try:
        yield
    except (BrokerError, Changed):
        raise
    except Exception as error:
        raise BrokerError(f"Celery's result backend cannot be reached: {error}") from error
