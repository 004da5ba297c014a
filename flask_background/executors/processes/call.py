"""One call of one item in a child process, seen from the parent: sent, followed, and ended in time."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flask_background.core.status import Outcome, Status
from flask_background.core.token import CancelReason
from flask_background.errors import ItemCrashedError
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.child_process import ChildProcess, Dead

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem


_ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class NotBegun(Exception):
    """The child died before the item was sent to it."""


class Killed(Exception):
    """The child was killed, because its item did not heed the token in time."""


class Call:
    """One call of one item in its child."""

    def __init__(self, child: ChildProcess, item: WorkItem[Any], kill_after: float) -> None:
        self._child = child
        self._item = item
        self._kill_after = kill_after
        self._kill_at = math.inf
        # The news that the child has: that the token has fired, and that a coroutine has to end although the
        # reason was a stop.
        self._announced = self._told_again = False
        self._asked = False  # whether anything was sent after the call
        #: Whether the child has no memory left for another item.
        self.has_spent_child = False

    def message(self) -> parcels.Call:
        """Return the message that asks the child for the call."""
        item, token = self._item, self._item.token
        attempt = item._attempt
        assert attempt is not None
        parcel = parcel_of(item)
        return parcels.Call(
            task=item.task_name,
            item_id=item.id,
            attempt=attempt.number,
            enqueued=item._enqueued,
            started=attempt.started or time.time(),
            state=parcels.state_as_tuple(item.state),
            timeout=item._task.timeout,
            remaining=token.remaining,
            reason=None if token.reason is None else token.reason.value,
            pickled=parcel.pickled,
            uploads=[parcels.send(upload) for upload in parcel.uploads],
        )

    def run(self, message: parcels.Call) -> Outcome:
        """Send the call, pass on cancellation, and receive reports until the outcome arrives."""
        child, token, attempt = self._child, self._item.token, self._item._attempt
        assert attempt is not None
        forget = token._call_when_fired(child.ring)
        attempt.abort = self._end_soon
        try:
            if token.reason in (CancelReason.REQUESTED, CancelReason.TIMEOUT):
                self._end_soon()  # requested before the call could be ended
            self._announced = message.reason is not None
            try:
                child.send(message)
            except OSError:
                raise NotBegun(str(Dead(child.pid, child.end()))) from None
            return self._listen()
        except Dead as dead:
            if child.died_unread and not self._asked:
                raise NotBegun(str(dead)) from None
            raise
        finally:
            attempt.abort = None
            forget()

    def _listen(self) -> Outcome:
        child, item = self._child, self._item
        while True:
            self._tell()
            left = None if self._kill_at == math.inf else self._kill_at - time.monotonic()
            message = child.receive(left)
            if isinstance(message, parcels.RunEnded):
                self.has_spent_child = message.is_spent
                if message.status not in self._possible_ends():
                    raise ItemCrashedError(
                        f"its child process reported an impossible status for item {item.id}"
                    )
                return parcels.outcome_of(message, f"item {item.id} ({item.task_name})")
            if isinstance(message, parcels.ProgressReported):
                item.report_progress(*message)
            elif isinstance(message, parcels.CancelledSelf):
                item.cancel()
            if left is not None and left <= 0:  # also if the child never stops reporting
                child.kill()
                raise Killed(f"its child process was killed {self._kill_after} s after it was asked to end")

    def _possible_ends(self) -> tuple[Status, ...]:
        """Return the statuses that the child may report: only a stop interrupts an item."""
        if self._item.token.reason is CancelReason.SHUTDOWN:
            return *_ENDS, Status.INTERRUPTED
        return _ENDS

    def _tell(self) -> None:
        """Tell the child the news of the item's token."""
        token = self._item.token
        with suppress(OSError):  # the child has just died, as the next receive will report
            if token.reason is not None and not self._announced:
                self._announced = self._asked = True
                self._child.send(parcels.TokenFired(token.reason.value, token.remaining))
            if token.reason is CancelReason.SHUTDOWN and self._kill_at != math.inf and not self._told_again:
                # The token has fired for good, but a coroutine still has to be cancelled.
                self._told_again = self._asked = True
                self._child.send(parcels.TokenFired(CancelReason.REQUESTED.value, token.remaining))

    def _end_soon(self) -> None:
        """End the call soon, by killing the child if it does not heed the token. Works on any thread."""
        self._kill_at = min(self._kill_at, time.monotonic() + self._kill_after)
        self._child.ring()


def parcel_of(item: WorkItem[Any]) -> parcels.PackedArguments:
    """Return the item's arguments, packed."""
    if len(item._args) == 1 and type(item._args[0]) is parcels.PackedArguments:
        return item._args[0]  # packed by ``ProcessExecutor.prepare``, as for every in-memory item
    return parcels.pack(item._task.func, item._args, item._kwargs or {}, bool(item._uploads))
