"""The stop of one app: how its items are brought to their end when the process stops.

::

    begin           tokens fire; requests that are being finished may still enqueue
    on record       one second before the host could kill: unfinished items are named as interrupted
    time is up      the grace period is over: refuse, start nothing more, cancel coroutines

A worker cannot tell a stop that ends in SIGKILL from one that does not. So the record is made early, and
corrected for each item that ends after all.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from flask_background.core.backend import Phase
from flask_background.core.item import WorkItem
from flask_background.core.status import Status
from flask_background.core.token import CancelReason
from flask_background.errors import ItemInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_background.core.events import Events
    from flask_background.core.status import Outcome
    from flask_background.core.token import CancellationSource
    from flask_background.local.ledger import Ledger


class ShutdownSequence:
    """Takes one app through its stop; the thread that watches the host moves the stop on.

    ``at_begin``, ``at_record`` and ``at_end`` are called at the three steps; ``at_end`` gets the items that
    had not ended. ``withdraw`` ends an item that has not started.
    """

    def __init__(
        self,
        ledger: Ledger,
        events: Events,
        grace: float,
        *,
        source_of: Callable[[WorkItem[Any]], CancellationSource],
        withdraw: Callable[[WorkItem[Any], Outcome], bool],
        at_begin: Callable[[], None],
        at_record: Callable[[], None],
        at_end: Callable[[list[WorkItem[Any]]], None],
    ) -> None:
        self._ledger = ledger
        self._events = events
        self._source_of = source_of
        self._withdraw = withdraw
        self._at_begin = at_begin
        self._at_record = at_record
        self._at_end = at_end
        self.grace = grace
        #: The time until which items certainly may run (``time.monotonic()``), and the end of the grace
        #: period.
        self.on_record_at = math.inf
        self.up_at = math.inf

    def begin(
        self,
        began: float,
        *,
        grace: float | None = None,
        allowance: float = math.inf,
        how_to_cut: str = "",
    ) -> None:
        """Ask the items to end. The stop began at ``began``; the host may kill allowance seconds later."""
        if self._ledger.phase is not Phase.RUNNING:
            return
        self.up_at = began + (self.grace if grace is None else grace)
        self.on_record_at = min(self.up_at, began + allowance)
        if not self._ledger.begin_stop():
            return
        self._at_begin()
        items = self._ledger.unfinished()
        for item in items:
            source = self._source_of(item)
            source.limit(self.on_record_at)
            source.fire(CancelReason.SHUTDOWN)
        seconds = max(0.0, self.on_record_at - time.monotonic())
        self._events.stopping(len(items), seconds, how_to_cut)

    def tick(self) -> None:
        """Take the next step of the stop, if it is due."""
        now = time.monotonic()
        if now >= self.on_record_at:
            self._record()
        if now >= self.up_at:
            self.time_is_up()

    def close_if_idle(self) -> bool:
        """Refuse items from now on, if nothing is in flight; return whether the stop is complete."""
        if self._ledger.close(if_idle=True):
            self._at_end([])
        return self._ledger.phase is Phase.STOPPED

    def time_is_up(self) -> list[WorkItem[Any]]:
        """Refuse items from now on, and log and return those that have not ended."""
        if not self._ledger.close():
            return self._ledger.unfinished()
        self.up_at = min(self.up_at, time.monotonic())
        self._record()
        unfinished = self._ledger.unfinished()
        for item in unfinished:
            self._withdraw(item, (Status.INTERRUPTED, None, _unfinished(item)))
        self._at_end(unfinished)
        return unfinished

    def _record(self) -> None:
        self._at_record()
        for item in self._ledger.unfinished():
            error = _unfinished(item)
            if self._ledger.record(item, error):
                self._events.finished(item, (Status.INTERRUPTED, None, error))
                item._announce_end()


def _unfinished(item: WorkItem[Any]) -> ItemInterruptedError:
    return ItemInterruptedError(
        f"item {item.id} ({item.task_name}) had not ended when the grace period was over: let it check"
        " current_item.token, or raise BACKGROUND_GRACE_PERIOD and the limit of the host, such as gunicorn's"
        " graceful_timeout"
    )
