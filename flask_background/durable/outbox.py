"""The outbox: items wait in the journal until another backend can take them, and one thread forwards them.

Every process that has the journal open forwards items, whether it runs durable items or not: otherwise items
would be stuck on a machine whose processes run no durable items. A row is deleted after its item was sent. If
the process dies in between, another process sends the item again, under the same id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from flask_background.concurrency import native
from flask_background.core.status import Status
from flask_background.durable.journal import outbox
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    import sqlite3

    from flask_background.durable.journal.outbox import OutboxRow
    from flask_background.durable.session import JournalSession

# How many items are forwarded between two transactions.
_BATCH = 100
# The first and the longest pause while forwarding fails, in seconds.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# How often an item is sent if the backend refuses that item.
_ATTEMPTS = 5


class Sender(Protocol):
    """Forwards items to the other backend."""

    #: The backend's name, for the log.
    name: str

    def is_worth_a_try(self) -> bool:
        """Return whether the backend can be reached, as far as is known; asked before items are claimed."""
        ...

    def nothing_waits(self) -> None:
        """Note that the outbox is empty."""
        ...

    def submit(self, row: OutboxRow) -> None:
        """Send an item, or, if the row is cancelled, report the cancellation to the backend.

        Raises BrokerError if the backend cannot be reached; any other error is caused by the item.
        """
        ...

    def tell_end(self, row: OutboxRow) -> None:
        """Announce the end of an item that has failed or was cancelled in the outbox."""
        ...


class Outbox:
    """The outbox of one app, as one process sees it. Its thread lives while items wait."""

    def __init__(self, session: JournalSession, sender: Callable[[], Sender] | None) -> None:
        self._session = session
        self._sender = sender
        self._lock = native.new_lock()
        self._closed = native.Latch()
        self._ended: native.Latch | None = None
        self._again = False
        self._count = 0
        self._has_warned = False

    def put(self, row: OutboxRow) -> None:
        """Add an item, which waits until the backend can take it. Raises JournalError."""
        undo = partial(_withdraw, item_id=row.id, now=row.enqueued)
        self._session.writer.write(partial(outbox.insert, row=row), undo=undo)
        if not self.wake():
            self._session.wake_all()

    def get(self, item_id: str) -> OutboxRow | None:
        """Return the row of an item that waits in the outbox, or has ended there. Raises JournalError."""
        try:
            return self._session.writer.read(partial(outbox.get, item_id=item_id))
        except UnicodeEncodeError:  # half a surrogate pair, which no id contains
            return None

    def cancel(self, item_id: str) -> Literal["cancelled", "asked"] | None:
        """Cancel a waiting item; return None if no item of this id is queued here. Raises JournalError."""
        return self._session.writer.write(partial(outbox.request_cancel, item_id=item_id, now=time.time()))

    def look(self) -> None:
        """Forward the items that wait, if there are any. Raises JournalError."""
        if self._sender is not None and self._ended is None and self._is_waiting():
            self.wake()

    def warn_if_stuck(self) -> None:
        """Log once that items wait for a backend that this app does not have. Raises JournalError."""
        if self._sender is None and not self._has_warned:
            waiting = self._session.writer.read(outbox.count_waiting)
            if waiting:
                self._has_warned = True
                self._session.local.events.nobody_forwards(waiting)

    def wake(self) -> bool:
        """Start the thread if none runs; return whether one runs."""
        with self._lock:
            self._again = True
            if self._ended is not None:
                return True
            if self._closed.wait(0):
                return False
            self._ended = native.Latch()
        try:
            native.start_thread(self._run, "background-outbox")
        except RuntimeError:  # the process cannot start a thread now; maintenance looks again
            self._ended = None
        return self._ended is not None

    def close(self, timeout: float) -> bool:
        """End the thread, and wait up to timeout seconds for it; return whether it has ended."""
        self._closed.open()
        ended = self._ended
        return ended is None or ended.wait(timeout)

    def _is_waiting(self) -> bool:
        return self._session.writer.read(outbox.is_waiting)

    def _run(self) -> None:
        ended, pause, in_trouble = self._ended, 0.0, False
        try:
            while not self._closed.wait(pause):
                try:
                    went_well = self._forward_some()
                    in_trouble = False
                except Exception as error:  # of the journal, or the backend's settings are wrong
                    went_well = False
                    if not in_trouble:
                        what = "The items in the outbox cannot be forwarded; the next try follows"
                        self._session.local.log_error(what, error)
                    in_trouble = True
                if went_well is None and self._may_end():
                    break
                if went_well is False:
                    self._tell_count()
                pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause)) if went_well is False else 0.0
            self._tell_count()
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

    def _tell_count(self) -> None:
        """Log once how many items were forwarded."""
        count, self._count = self._count, 0
        if count and self._sender is not None:
            self._session.local.events.forwarded(count, self._sender().name)

    def _forward_some(self) -> bool | None:
        """Forward some items; return whether that succeeded, or None if no item waits.

        Rows that were not forwarded are free again afterwards.
        """
        assert self._sender is not None
        sender = self._sender()
        if not sender.is_worth_a_try():
            return False
        writer, owner = self._session.writer, self._session.process_lock.id
        claimed = writer.write(partial(outbox.claim, owner=owner, limit=_BATCH), sync=False)
        if not claimed:
            sender.nothing_waits()
            return None
        forwarded: set[str] = set()
        went_well = True
        try:
            for row in claimed:
                if self._closed.wait(0):
                    break
                try:
                    sender.submit(row)
                except BrokerError:
                    went_well = False
                    break
                except Exception as error:
                    went_well = False
                    self._refuse(sender, row, error)
                else:
                    forwarded.add(row.id)
        finally:  # written as soon as possible, before anything else is claimed
            step = partial(outbox.settle, owner=owner, claimed=claimed, forwarded=forwarded, now=time.time())
            writer.write_later(step, partial(_tell_ends, sender), sync=False)
            self._count += len(forwarded)
        return went_well

    def _refuse(self, sender: Sender, row: OutboxRow, error: Exception) -> None:
        """Send an item again after the others, or let it fail after the last attempt."""
        reason = f"it could not be forwarded to {sender.name}: {error}"
        step = partial(outbox.refuse, row=row, reason=reason, attempts=_ATTEMPTS, now=time.time())
        if self._session.writer.write(step):
            sender.tell_end(row._replace(status=Status.FAILED, reason=reason))


def _tell_ends(sender: Sender, ended: list[OutboxRow]) -> None:
    for row in ended:
        sender.tell_end(row)


def _withdraw(db: sqlite3.Connection, item_id: str, now: float) -> None:
    outbox.request_cancel(db, item_id, now)
