"""What comes before a run in a Celery worker: a message's claim to the item, by the item's record.

A message may come twice: after a worker's death, or because an acknowledgement was lost. And an item may
have several messages, as nobody can say of one whose sender was cut off whether it has arrived. So the record
decides. An item that has ended is left alone. One that is said to run has lost its worker if that was this
very message's run and it shows no sign of life, and that is counted; another message's run is left to that
one, which comes again if it has to. Each message has a name for that, and only one at a time begins a run.
"""

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING, Any, NoReturn

from flask_background.celery.envelope import Envelope
from flask_background.celery.records import Changed, Failure
from flask_background.celery.worker.running_item import ClusterItem, Place, RunOwner
from flask_background.concurrency import native
from flask_background.core.status import Outcome, Status
from flask_background.errors import ItemCancelledError, ItemFailedError
from flask_background.payload.calls import unpack_call

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

# What is due in less than this is waited for; for more, the message is sent on (seconds).
SOON = 1.0
# When a message comes again whose run is alive, or whose uploads cannot be read just now, in seconds.
_PUT_OFF = 5.0


class _Unreadable(Exception):
    """An upload cannot be read; the text says why."""


class _StoreAway(Exception):
    """An upload cannot be read now, and perhaps later."""


class Claim:
    """One message's."""

    def __init__(self, place: Place, request: Any, payload: str) -> None:
        self._part = place.part
        self._payload = payload
        self._name: str = request.task
        self._limit: float | None = (request.timelimit or (None,))[0]
        self._envelope = Envelope.open(request.headers)
        # What there is no record of has waited for longer than those are kept.
        self._owner = RunOwner(place, request.id, self._envelope.record(self._name))
        self._belongings = place.belongings
        self._opened: list[FileStorage] = []
        self._seen: bytes | None = None  # the record, as it stood there

    def claim(self) -> ClusterItem | None:
        """The item, on record as running; None if this message is not to run it. Raises Changed, Failure."""
        item = self._first_claim()
        if item is None and self._is_ours():
            item = self._claim()
        return item

    def _first_claim(self) -> ClusterItem | None:
        """The same as what follows, in one question, of an item that nothing has happened to yet.

        None if that is not so, or if there is more to it.
        """
        owner, envelope = self._owner, self._envelope
        seen = owner.records.first(owner.id, owner.record)
        if seen is None or envelope.uploads or envelope.key or envelope.seconds_left():
            return None
        task: Any = envelope.task(self._part.registry.tasks[self._name])
        try:
            args, kwargs, _ = unpack_call(self._payload, self._open_upload)
            task.check_call(*args, **kwargs)
        except Exception:  # it is to be parked, unless it has ended
            return None
        try:
            return self._begin(task, args, kwargs, 0, seen)
        except Changed:
            return None

    def _is_ours(self) -> bool:
        """Whether the item is to be run now, by whoever has got this message."""
        owner, message = self._owner, self._envelope.message
        self._read()
        if self._is_begun():
            started, is_alive = owner.record.started, owner.life.is_seen(owner.id)
            self._read()  # it may have ended, or another worker may have begun anew
            if self._is_begun() and (is_alive or owner.record.started != started):
                self._put_off()
                return False
        if owner.record.status.is_final:
            return False
        if owner.record.status is Status.RUNNING:
            return owner.record.message == message
        return self._is_due()

    def _read(self) -> None:
        known, self._seen = self._owner.records.see(self._owner.id)
        self._owner.record = known or self._envelope.record(self._name)

    def _is_begun(self) -> bool:
        """Whether this message has brought about a run already that has not ended, as far as is known."""
        record = self._owner.record
        return record.status is Status.RUNNING and record.message == self._envelope.message

    def _is_due(self) -> bool:
        """Whether the item may start now; if not, another message will come."""
        due = max(self._envelope.due or 0.0, self._owner.record.due or 0.0)
        seconds = due - time.time()
        if seconds > SOON:
            self.send_again(due)
            return False
        if seconds > 0:
            native.sleep(seconds)
        return True

    def _claim(self) -> ClusterItem | None:
        """The item with its arguments, on record as running; None if it ended instead."""
        owner, record = self._owner, self._owner.record
        crashes = record.crashes + (record.status is Status.RUNNING)
        task: Any = self._envelope.task(self._part.registry.tasks[self._name])
        if crashes >= task.options.max_crashes:
            self._park(f"its process died under it {crashes} times", crashes)
        try:
            args, kwargs, self._opened = unpack_call(self._payload, self._open_upload)
            task.check_call(*args, **kwargs)
        except _StoreAway as error:
            owner.log_error(f"Item {owner.id} ({self._name}) is tried again in {_PUT_OFF:g} s", error)
            self._put_off()
            return None
        except _Unreadable as error:
            self._park(str(error), crashes)
        except Exception as error:
            self._park(f"its arguments do not fit any more: {error}", crashes)
        if self._envelope.key is not None:
            self._belongings.keys.confirm(self._envelope.key, owner.id, 0.0)
        return self._begin(task, args, kwargs, crashes, self._seen)

    def _begin(
        self, task: Any, args: Any, kwargs: Any, crashes: int, seen: bytes | None
    ) -> ClusterItem | None:
        """Put on record that it runs; None if it was cancelled. Raises Changed if the record has."""
        owner, record = self._owner, self._owner.record
        item = ClusterItem.of(owner.id, record, task, args, kwargs, owner)
        running = record._replace(
            status=Status.RUNNING,
            attempt=record.attempt + 1,
            crashes=crashes,
            started=time.time(),
            progress=None,
            message=self._envelope.message,
            due=None,
        )
        is_unwanted = owner.records.begin_run(owner.id, running, seen)
        owner.record = running
        if is_unwanted:
            self._cancelled()
            return None
        return item

    def _open_upload(self, number: int) -> IO[bytes]:
        uploads = self._belongings.uploads
        if uploads is None:
            raise _Unreadable("it has an upload, and BACKGROUND_UPLOADS is not set in this worker")
        try:
            return uploads.open(self._owner.id, number)
        except (FileNotFoundError, PermissionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise _Unreadable(f"its upload could not be read in {uploads.store.shown}: {what}") from error
        except Exception as error:  # a store that cannot be reached: that is not the item's fault
            raise _StoreAway from error

    def _park(self, reason: str, crashes: int) -> NoReturn:
        now = time.time()
        self._owner.put(status=Status.FAILED, finished=now, reason=reason, crashes=crashes, error=None)
        error = ItemFailedError(f"item {self._owner.id} ({self._name}) was parked: {reason}")
        self._tell_end((Status.FAILED, None, error))
        raise Failure(str(error), self._owner.record.as_data())

    def _cancelled(self) -> None:
        self._owner.put(status=Status.CANCELLED, finished=time.time())
        error = ItemCancelledError(f"item {self._owner.id} ({self._name}) was cancelled")
        self._tell_end((Status.CANCELLED, None, error))

    def _tell_end(self, outcome: Outcome) -> None:
        """Of an item that has not run."""
        owner, task = self._owner, self._part.registry.tasks[self._name]
        item = ClusterItem.of(owner.id, owner.record, task, (), {}, owner)
        item._learn(outcome[0], owner.record.attempt_of(owner.id))
        owner.events.finished(item, outcome)

    # For another time.

    def send_again(self, due: float) -> None:
        """Another message follows this one. Should that fail, this one comes back, too early."""
        self._publish(self._envelope._replace(due=due, message=""))

    def _put_off(self) -> None:
        """The same message comes again after a while: what it has claimed or brought about stays its own."""
        self._publish(self._envelope._replace(due=time.time() + _PUT_OFF))

    def _publish(self, envelope: Envelope) -> None:
        self._part.celery.cluster.publish(self._owner.id, self._name, self._payload, envelope)
