"""The thread that hands over to Celery what waits for that in the journal.

Every process that has the journal open does this, whether it runs durable items or not: otherwise they would
be stuck where all of those are elsewhere. What is published is deleted after that; should the process die in
between, another one publishes it again, under the same id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from flask_background.concurrency import native
from flask_background.core.settings import OUTBOX
from flask_background.core.status import Status
from flask_background.durable.journal import outbox
from flask_background.durable.journal.group_commit import Insert
from flask_background.durable.journal.statements import abandon
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.durable.backend import DurableBackend
    from flask_background.durable.journal.row import ItemRow

# How many are handed over between two transactions.
_BATCH = 100
# How long the pauses are while it fails, in seconds: the first, and what they grow to.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# How often an item is tried that Celery does not take for a reason of its own.
_ATTEMPTS = 5


class Sender(Protocol):
    """What the outbox needs of the backend that sends items to Celery."""

    def is_worth_a_try(self) -> bool: ...
    def nothing_waits(self) -> None: ...
    def submit(self, entry: ItemRow) -> None: ...


class Outbox:
    """The outbox of one app, as one process sees it. Its thread lives as long as there is something in it."""

    def __init__(self, backend: DurableBackend, sender: Callable[[], Sender] | None) -> None:
        self._backend = backend
        self._sender = sender
        self._lock = native.new_lock()
        self._closed = native.Latch()
        self._ended: native.Latch | None = None
        self._again = False
        self._count = 0

    @property
    def is_open(self) -> bool:
        """Whether the app has a Celery to hand items over to."""
        return self._sender is not None

    def put(self, entry: ItemRow) -> None:
        """Keep an item until Celery can be reached. Raises JournalError."""
        undo = partial(abandon, item_id=entry.id, now=entry.enqueued)
        self._backend.writer.do(Insert(entry._replace(executor=OUTBOX)), undo=undo)
        if not self.wake():
            self._backend.call_others()

    def look(self) -> None:
        """Hand over what waits, if anything does. Raises JournalError."""
        if self.is_open and self._ended is None and self._backend.writer.read(outbox.is_waiting):
            self.wake()

    def wake(self) -> bool:
        """Have a thread; says whether there is one."""
        with self._lock:
            self._again = True
            if self._ended is not None:
                return True
            if self._closed.wait(0):
                return False
            self._ended = native.Latch()
        try:
            native.start_thread(self._run, "background-outbox")
        except RuntimeError:  # so many threads there may not be; the keeper looks again
            self._ended = None
        return self._ended is not None

    def close(self, timeout: float) -> bool:
        """End the thread; says whether it has ended, after timeout seconds at most."""
        self._closed.open()
        ended = self._ended
        return ended is None or ended.wait(timeout)

    def _run(self) -> None:
        ended, pause, in_trouble = self._ended, 0.0, False
        try:
            while not self._closed.wait(pause):
                try:
                    went_well = self._hand_over_some()
                    in_trouble = False
                except Exception as error:  # the journal's, or Celery is not configured as it should be
                    went_well = False
                    if not in_trouble:
                        self._backend.log_error(
                            "The outbox cannot be handed over; this is tried again", error
                        )
                    in_trouble = True
                if went_well is None and self._may_end():
                    break
                if went_well is False:
                    self._tell()
                pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause)) if went_well is False else 0.0
            self._tell()
        finally:
            with self._lock:
                if self._ended is ended:
                    self._ended = None
            if ended is not None:
                ended.open()

    def _may_end(self) -> bool:
        with self._lock:
            again, self._again = self._again, False
            if not again:
                self._ended = None
            return not again

    def _tell(self) -> None:
        """Once for all that went through."""
        count, self._count = self._count, 0
        if count:
            self._backend.local.events.handed_over(count)

    def _hand_over_some(self) -> bool | None:
        """Whether it went well; None if nothing waits. What it has not handed over is free again after it."""
        assert self._sender is not None
        sender = self._sender()
        if not sender.is_worth_a_try():
            return False
        writer, owner = self._backend.writer, self._backend.owner.id
        entries = writer.do(partial(outbox.claim, owner=owner, limit=_BATCH), sync=False)
        if not entries:
            sender.nothing_waits()
            return None
        handed_over: set[str] = set()
        went_well = True
        try:
            for entry in entries:
                if self._closed.wait(0):
                    break
                try:
                    sender.submit(entry)
                except BrokerError:
                    went_well = False
                    break
                except Exception as error:
                    went_well = False
                    self._refuse(entry, error)
                else:
                    handed_over.add(entry.id)
        finally:  # as soon as it can be written, before anything else is claimed
            step = partial(
                outbox.settle, owner=owner, claimed=entries, handed_over=handed_over, now=time.time()
            )
            writer.later(step, self._tell_ends, sync=False)
            self._count += len(handed_over)
        return went_well

    def _tell_ends(self, ended: list[ItemRow]) -> None:
        for entry in ended:
            self._backend.tell_end(entry)

    def _refuse(self, entry: ItemRow, error: Exception) -> None:
        """Try an item again after the others, or park it at last."""
        backend = self._backend
        reason = f"it could not be handed over to Celery: {error}"
        step = partial(outbox.refuse, entry=entry, reason=reason, attempts=_ATTEMPTS, now=time.time())
        if backend.writer.do(step):
            backend.tell_end(entry._replace(status=Status.FAILED, reason=reason))
