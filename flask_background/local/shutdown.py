"""The stop of one app: how its items are brought to their end when the process stops.

::

    begin           tokens fire; requests that are being finished may still enqueue
    on record       one second before the host could kill: items that have not started are handed over to the
                    journal (earlier if they are many), and the other unfinished ones named as interrupted
    time is up      the grace period is over: refuse, start nothing more, cancel coroutines

A worker cannot tell a stop that ends in SIGKILL from one that does not. So the record is made early, and
corrected for each item that ends after all.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from flask_background.concurrency.durations import bounded
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
    from flask_background.local.handover import HandOver, Leaving
    from flask_background.local.ledger import Ledger


# How long before the limit of BACKGROUND_HOST_LIMIT items are put on record, in seconds. Other hosts count
# alike.
_RECORD_BEFORE = 1.0
# How long items may take to be handed over, in seconds: where the host does not kill, where it is about to,
# and how long before that they have to be done.
_AT_LEISURE = 4.0
_IN_HASTE = 0.75
_BEFORE_KILL = 0.25
# How much earlier items are handed over, on a busy machine: seconds to open the journal, seconds for each of
# them, and the largest share of the time until then.
_TO_OPEN = 0.5
_LEAD = 0.0004
_LARGEST_LEAD = 0.25
# How soon the host may kill when a second signal has ended the wait, in seconds; gunicorn does so after 2 s.
_CUT_SHORT = 1.75


class ShutdownSequence:
    """Takes one app through its stop; hosts see an app by this class.

    ``host_limit`` is BACKGROUND_HOST_LIMIT. ``look_after`` is called now and then while items are in flight.
    ``at_begin``, ``at_record`` and ``at_end`` are called at the three steps; ``at_end`` gets the items that
    had not ended. ``at_begin`` gets the time by which items have to be handed over that wait for their time
    (``time.monotonic()``), and returns those. ``withdraw`` ends an item that has not started.
    """

    def __init__(
        self,
        ledger: Ledger,
        events: Events,
        grace: float,
        host_limit: float | None,
        *,
        hand_over: HandOver,
        source_of: Callable[[WorkItem[Any]], CancellationSource],
        withdraw: Callable[[WorkItem[Any], Outcome], bool],
        look_after: Callable[[], None],
        at_begin: Callable[[float], Leaving],
        at_record: Callable[[], None],
        at_end: Callable[[list[WorkItem[Any]]], None],
    ) -> None:
        self.ledger = ledger
        self._events = events
        self._allowance = math.inf if host_limit is None else max(0.0, host_limit - _RECORD_BEFORE)
        self._hand_over = hand_over
        self._source_of = source_of
        self._withdraw = withdraw
        self.look_after = look_after
        self._at_begin = at_begin
        self._at_record = at_record
        self._at_end = at_end
        self.grace = grace
        #: The time until which items certainly may run (``time.monotonic()``), and the end of the grace
        #: period.
        self.on_record_at = math.inf
        self.up_at = math.inf
        # When the stop has begun, and when the host may kill (``time.monotonic()``).
        self._began = self._killed_at = math.inf

    def begin(
        self,
        began: float,
        *,
        grace: float | None = None,
        allowance: float = math.inf,
        how_to_cut: str = "",
    ) -> None:
        """Ask the items to end. The stop began at ``began``; the host may kill allowance seconds later."""
        if self.ledger.phase is not Phase.RUNNING:
            return
        self.up_at = began + (self.grace if grace is None else grace)
        self.on_record_at = min(self.up_at, began + allowance)
        self._began, self._killed_at = began, began + allowance + _RECORD_BEFORE
        if not self.ledger.begin_stop():
            return
        waiting = self._at_begin(self.must_be_done_by())
        items = self.ledger.unfinished()
        for item in items:
            source = self._source_of(item)
            source.limit(self.on_record_at)
            source.fire(CancelReason.SHUTDOWN)
        seconds = max(0.0, self.on_record_at - time.monotonic())
        self._events.stopping(len(items), seconds, how_to_cut)
        self._enter(waiting)  # after the tokens, which must not wait for a disk

    def go_on_stopping(self, began: float, allowance: float, how_to_cut: str) -> None:
        """Begin the stop if it has not begun, and take its next step."""
        self.begin(began, allowance=min(allowance, self._allowance), how_to_cut=how_to_cut)
        self.tick()

    def stop(self, grace: float | None) -> list[WorkItem[Any]]:
        """Stop now: give items grace seconds to end, and return those that had not ended."""
        began = time.monotonic()
        if grace is not None:
            grace = bounded(grace)
        self.begin(began, grace=grace)
        up_at = self.up_at if grace is None else min(self.up_at, began + grace)
        with self.ledger.idle_latch() as latch:
            latch.wait(up_at - time.monotonic())
        self.close_if_idle()
        return self.time_is_up()

    def tick(self) -> None:
        """Take the next step of the stop, if it is due."""
        if self.on_record_at > time.monotonic() >= self.on_record_at - self._lead:
            self._hand_queued_over()
        now = time.monotonic()
        if now >= self.on_record_at:
            self._record()
        if now >= self.up_at:
            self.time_is_up()

    def close_if_idle(self) -> bool:
        """Refuse items from now on, if nothing is in flight; return whether the stop is complete."""
        if self.ledger.close(if_idle=True):
            self._at_end([])
        return self.ledger.phase is Phase.STOPPED and not self.is_handing_over()

    def time_is_up(self) -> list[WorkItem[Any]]:
        """Refuse items from now on, and log and return those that have not ended."""
        # Before the phase changes: another thread that sees the change must not end the process meanwhile.
        with self._hand_over.announced(time.monotonic() + _AT_LEISURE):
            if not self.ledger.close():
                return self.ledger.unfinished()
            now = time.monotonic()
            if now < self.on_record_at:
                self._killed_at = min(self._killed_at, now + _CUT_SHORT)
            self.up_at = min(self.up_at, now)
            self._record()
        unfinished = self.ledger.unfinished()
        for item in unfinished:
            self._withdraw(item, (Status.INTERRUPTED, None, self._unfinished(item)))
        self._at_end(unfinished)
        return unfinished

    def is_stopped(self) -> bool:
        """Return whether items are refused because the app was stopped."""
        return self.ledger.phase is Phase.STOPPED

    def is_idle(self) -> bool:
        """Return whether no item is queued or running. Safe in a signal handler."""
        return self.ledger.is_idle()

    def is_handing_over(self) -> bool:
        """Return whether a thread is about to hand items over; that takes a few seconds at most."""
        return self._hand_over.is_busy()

    def wait_for_receivers(self, timeout: float) -> bool:
        """Wait up to timeout seconds for receivers of signals that run on other threads."""
        return self._events.wait_for_receivers(timeout)

    def log_error(self, what: str, error: BaseException) -> None:
        """Log an error that affects no item."""
        self._events.log_error(what, error)

    def log_warning(self, what: str) -> None:
        """Log a warning on which an operator should act."""
        self._events.log.warning("%s", what)

    def _record(self) -> None:
        self._at_record()
        self._hand_queued_over(self._name_unfinished)
        self._name_unfinished()

    def _hand_queued_over(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Hand items over that have not started; call meanwhile as soon as no thread starts them any more."""
        end = self.must_be_done_by()
        with self._hand_over.announced(time.monotonic() + _AT_LEISURE):
            leaving = self._hand_over.take(end)
            meanwhile()
            self._enter(leaving)

    def _enter(self, leaving: Leaving) -> None:
        self._hand_over.enter(leaving)
        if leaving.taken:  # the host waits a little longer for the next step, which is late
            self.up_at = max(self.up_at, time.monotonic())

    @property
    def _lead(self) -> float:
        """The seconds before the record at which items are handed over, which takes longer if many are."""
        seconds = _TO_OPEN + _LEAD * self.ledger.count_queued()
        return min(seconds, _LARGEST_LEAD * (self.on_record_at - self._began))

    def must_be_done_by(self) -> float:
        """Return when items that are handed over from now on have to be in the journal."""
        now = time.monotonic()
        return min(now + _AT_LEISURE, max(now + _IN_HASTE, self._killed_at - _BEFORE_KILL))

    def _name_unfinished(self) -> None:
        for item in self.ledger.unfinished():
            if item.id in self.ledger.recorded:
                continue
            error = self._unfinished(item)
            if self.ledger.record(item, error):
                self._events.finished(item, (Status.INTERRUPTED, None, error))
                item._announce_end()

    def _unfinished(self, item: WorkItem[Any]) -> ItemInterruptedError:
        why_kept = self._hand_over.why_kept(item)
        if why_kept:
            return ItemInterruptedError(
                f"item {item.id} ({item.task_name}) had not started when the grace period was over{why_kept}"
            )
        return ItemInterruptedError(
            f"item {item.id} ({item.task_name}) had not ended when the grace period was over: let it check"
            " current_item.token, or raise BACKGROUND_GRACE_PERIOD and the limit of the host, such as"
            " gunicorn's graceful_timeout"
        )
