"""One call of one item in a child process, seen from the parent: sent, followed, and ended in time."""

from __future__ import annotations

import contextvars
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flask_background.core.status import Outcome, Status
from flask_background.core.token import CancelReason
from flask_background.errors import ItemCrashedError
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.child_log import LogReceiver
from flask_background.executors.processes.child_process import ChildProcess, Dead
from flask_background.executors.processes.packing import PackedArguments, pack, send_upload

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.core.run_host import RunHost


# The statuses that a child may report. Only a stop interrupts an item.
_ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
_ENDS_IN_STOP = (*_ENDS, Status.INTERRUPTED)


class NotBegun(Exception):
    """The child died before the item was sent to it."""


class Killed(Exception):
    """The child was killed, because its item did not heed the token in time."""


# How long a child that is about to be killed may take to say where it is, in seconds.
_SAYS_WITHIN = 0.2


class Call:
    """One call of one item in its child."""

    def __init__(self, child: ChildProcess, item: WorkItem[Any], kill_after: float, log: LogReceiver) -> None:
        self.child = child
        self._item = item
        self._token = item.token
        self._kill_after = kill_after
        self._log = log
        # Lines about the item are logged in its context, on whatever thread.
        self._context = contextvars.copy_context()
        self._kill_at = math.inf
        # The news that the child has: that the token has fired, and that a coroutine has to end although the
        # reason was a stop.
        self._announced = self._told_again = False
        self._asked = False  # whether anything was sent after the call
        #: Whether the child has no memory left for another item.
        self.has_spent_child = False

    def message(self) -> parcels.Call:
        """Return the message that asks the child for the call."""
        item, token = self._item, self._token
        attempt = item._attempt
        assert attempt is not None
        parcel = parcel_of(item)
        return parcels.Call(
            task=item.task_name,
            executor=item._task.executor,
            item_id=item.id,
            attempt=attempt.number,
            enqueued=item._enqueued,
            started=attempt.started or time.time(),
            state=parcels.state_as_tuple(item.state),
            timeout=item._task.timeout,
            remaining=token.remaining,
            reason=None if token.reason is None else token.reason.value,
            pickled=parcel.pickled,
            uploads=[send_upload(upload) for upload in parcel.uploads],
            description=item.description,
        )

    def run(self, message: parcels.Call) -> Outcome:
        """Send the call, pass on cancellation, and receive reports until the outcome arrives."""
        child, token, attempt = self.child, self._token, self._item._attempt
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
            if self._log.left_out:
                self._log.report(child.pid, host_of(self._item).events)
            attempt.abort = None
            forget()

    def _listen(self) -> Outcome:
        child, item = self.child, self._item
        while True:
            self._tell()
            left = None if self._kill_at == math.inf else self._kill_at - time.monotonic()
            message = child.receive(left)
            if isinstance(message, parcels.RunEnded):
                self.has_spent_child = message.is_spent
                possible = _ENDS_IN_STOP if self._token.reason is CancelReason.SHUTDOWN else _ENDS
                if message.status not in possible:
                    raise ItemCrashedError(
                        f"its child process reported an impossible status for item {item.id}"
                    )
                return parcels.outcome_of(message, f"item {item.id} ({item.task_name})")
            if isinstance(message, parcels.Logged):
                self._log.receive(message, child.pid, host_of(item).events)
            elif isinstance(message, parcels.ProgressReported):
                item.report_progress(*message)
            elif isinstance(message, parcels.CancelledSelf):
                item.cancel()
            if left is not None and left <= 0:  # also if the child never stops reporting
                why = f"{self._kill_after:g} s after it was asked to end"
                child.ask_where()
                self.tell_kill(why)
                child.kill()
                raise Killed(f"its child process was killed {why}")

    def tell_kill(self, why: str, within: float = _SAYS_WITHIN) -> None:
        """Log that the child is about to be killed, and where it is. ``ask_where`` has been called before.

        Works on any thread.
        """
        where = self.child.read_where(time.monotonic() + within)
        killed = host_of(self._item).events.child_killed
        self._context.copy().run(killed, self._item, self.child.pid, why, where)

    def _tell(self) -> None:
        """Tell the child the news of the item's token."""
        token = self._token
        if (reason := token.reason) is None:
            return
        with suppress(OSError):  # the child has just died, as the next receive will report
            if not self._announced:
                self._announced = self._asked = True
                self.child.send(parcels.TokenFired(reason.value, token.remaining))
            if reason is CancelReason.SHUTDOWN and self._kill_at != math.inf and not self._told_again:
                # The token has fired for good, but a coroutine still has to be cancelled.
                self._told_again = self._asked = True
                self.child.send(parcels.TokenFired(CancelReason.REQUESTED.value, token.remaining))

    def _end_soon(self) -> None:
        """End the call soon, by killing the child if it does not heed the token. Works on any thread."""
        self._kill_at = min(self._kill_at, time.monotonic() + self._kill_after)
        self.child.ring()


def host_of(item: WorkItem[Any]) -> RunHost:
    """Return the host of an item that an executor runs."""
    host: RunHost = item._host  # type: ignore[assignment]  # only a host that runs items has an executor
    return host


def parcel_of(item: WorkItem[Any]) -> PackedArguments:
    """Return the item's arguments, packed."""
    if len(item._args) == 1 and type(item._args[0]) is PackedArguments:
        return item._args[0]  # packed by ``ProcessExecutor.prepare``, as for every in-memory item
    return pack(item._task.func, item._args, item._kwargs or {}, bool(item._uploads))
