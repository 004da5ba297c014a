"""What is in flight, what has ended, and how far the stop is: all counts under one lock.

One lock for the counts and the phase, so that no item can slip in between the last one's end and the stop.
Nothing here calls foreign code, so nothing foreign runs under the lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from .. import native
from ..executors.base import Executor
from ..item import Status, WorkItem
from ..runner import Outcome
from .base import Phase, Stats

# How many ended items can still be found by their ids.
KEPT = 1_000

_WAITING = (Status.QUEUED, Status.INTERRUPTED)


class Ledger:
    """The books of one app in one process."""

    def __init__(self) -> None:
        self.lock = native.new_lock()
        self.phase = Phase.RUNNING
        self.in_flight: dict[str, WorkItem[Any]] = {}
        self._kept: OrderedDict[str, WorkItem[Any]] = OrderedDict()
        self._running = 0
        self._ended = dict.fromkeys(Status, 0)
        self._idle_gates: list[native.Gate] = []
        self._room_gates: list[native.Gate] = []

    def admit(
        self, item: WorkItem[Any], executor: Executor, limit: float, gate: native.Gate | None = None
    ) -> bool:
        """Count item in, unless the executor's load has reached limit or all is over.

        Where it is full, the gate opens when it may not be any more.
        """
        with self.lock:
            if self.phase is Phase.STOPPED:
                return False
            if executor.load >= limit:
                if gate is not None:
                    self._room_gates.append(gate)
                return False
            executor.load += 1
            self.in_flight[item.id] = item
            return True

    def claim(self, item: WorkItem[Any]) -> bool:
        """Move a waiting item to running; False if it was withdrawn, or all is over."""
        with self.lock:
            if item.status not in _WAITING or self.phase is Phase.STOPPED:
                return False
            self._move(item, Status.RUNNING)
            item._started = time.time()
            item.attempt += 1
            self._running += 1
            return True

    def settle(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """Give a running item its outcome; says whether it was on record as interrupted."""
        with self.lock:
            corrects = item.status is Status.INTERRUPTED
            self._running -= 1
            self._end(item, outcome)
            return corrects

    def withdraw(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """Give a waiting item its outcome, so that it never runs; False if it does or did."""
        with self.lock:
            if item.status not in _WAITING or item._started is not None:
                return False
            self._end(item, outcome)
            return True

    def interrupt(self, item: WorkItem[Any], error: BaseException) -> bool:
        """Put on record that item has not ended, and let it go on; False if it has, or that is on record."""
        with self.lock:
            if item.status.is_final:
                return False
            self._end(item, (Status.INTERRUPTED, None, error))
            return True

    def remove(self, item: WorkItem[Any], executor: Executor) -> None:
        """Count item out, once all who want to know have been told of its end."""
        with self.lock:
            executor.load -= 1
            del self.in_flight[item.id]
            self._kept[item.id] = item
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            gates = self._room_gates
            if gates:
                self._room_gates = []
            if self._idle_gates and not self.in_flight:
                gates = gates + self._idle_gates
                self._idle_gates = []
        for gate in gates:
            gate.open()

    def begin_stop(self) -> bool:
        """Go from running to stopping; False if that was done."""
        with self.lock:
            begins = self.phase is Phase.RUNNING
            if begins:
                self.phase = Phase.STOPPING
            return begins

    def close(self, *, if_idle: bool = False) -> bool:
        """Accept and start nothing from now on; False if that was so, or if something is in flight."""
        with self.lock:
            if self.phase is Phase.STOPPED or (if_idle and self.in_flight):
                return False
            self.phase = Phase.STOPPED
            gates, self._room_gates = self._room_gates, []
        for gate in gates:
            gate.open()
        return True

    def idle_gate(self) -> native.Gate:
        """A gate that opens as soon as nothing is in flight."""
        gate = native.Gate()
        with self.lock:
            idle = not self.in_flight
            if not idle:
                self._idle_gates.append(gate)
        if idle:
            gate.open()
        return gate

    def get(self, item_id: str) -> WorkItem[Any] | None:
        """The item with this id."""
        return self.in_flight.get(item_id) or self._kept.get(item_id)

    def all(self) -> list[WorkItem[Any]]:
        """Those that ended last, and those in flight."""
        with self.lock:
            return [*self._kept.values(), *self.in_flight.values()]

    def unfinished(self) -> list[WorkItem[Any]]:
        """Those in flight."""
        with self.lock:
            return list(self.in_flight.values())

    def stats(self) -> Stats:
        """All counts, at one moment."""
        with self.lock:
            return Stats(
                queued=len(self.in_flight) - self._running,
                running=self._running,
                succeeded=self._ended[Status.SUCCEEDED],
                failed=self._ended[Status.FAILED],
                cancelled=self._ended[Status.CANCELLED],
                interrupted=self._ended[Status.INTERRUPTED],
            )

    def _move(self, item: WorkItem[Any], status: Status) -> None:
        if item.status.is_final:
            self._ended[item.status] -= 1
        if status is not item.status:
            item._move(status)
        if status.is_final:
            self._ended[status] += 1

    def _end(self, item: WorkItem[Any], outcome: Outcome) -> None:
        self._move(item, outcome[0])
        item._value, item._error = outcome[1:]
        item._finished = time.time()
