"""The handle of an item that other machines run: it knows what the item's record says."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.callee import Callee
from flask_background.core.item import ItemHost
from flask_background.core.remote_item import RemoteItem
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.records.record import Record
    from flask_background.core.request_state import RequestState

R = TypeVar("R", covariant=True)

# How long whoever waits does not read the record, at first and after a while, in seconds, and by what factor
# that grows: an end is seen late by a part of what it took.
_SOON, _LATER, _LONGER = 0.002, 0.25, 1.25
# How long one wait for news of the end takes, in seconds, where there are news.
_NEWS = 1.0
# How long an outage may take in which somebody waits, in seconds.
_PATIENCE = 30.0


class RecordKeeper(ItemHost, Protocol):
    """The backend that keeps the records, as handles need it."""

    def look(self, item: CeleryItem[Any]) -> Record | None: ...
    def wait_for_end(self, item: CeleryItem[Any], seconds: float) -> bool: ...


class CeleryItem(RemoteItem[R]):
    """A work item that other machines run. What it says is as its record is when it is asked."""

    __slots__ = ("_keeper", "in_outbox", "runs_here")

    def __init__(
        self,
        task: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: RequestState | None,
        keeper: RecordKeeper,
    ) -> None:
        #: Whether it waits in this process, so that there is no record of it yet.
        self.here = True
        #: Whether this machine's journal has it, until it can be handed over; or had it at the last look.
        self.in_outbox = False
        #: Whether this process is to run it after all: it is ``here`` for good, kept by its backend.
        self.runs_here = False
        self._keeper = keeper
        super().__init__(task, args, kwargs, state, keeper)

    @classmethod
    def of(cls, item_id: str, record: Record, task: Callee, keeper: RecordKeeper) -> Self:
        """The handle of an item that was enqueued elsewhere."""
        item = cls(task, (), {}, record.request_state(), keeper)
        item._identify(item_id, record.enqueued)
        item._describe(record.description)
        item.here = False
        item.take(record)
        return item

    def place(self, *, here: bool, in_outbox: bool = False) -> None:
        """Say where the item is now: in this process, in the journal's outbox, or else on its way."""
        self.here, self.in_outbox = here, in_outbox

    def stay_here(self, host: ItemHost) -> None:
        """Have this process run the item: its host is that of the items of this process."""
        self._change_host(host)
        self.here = self.runs_here = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end, wherever that comes."""
        if self.runs_here:
            return super().wait(timeout)
        end = deadline(timeout)
        for pause in self._looks(end):
            left = min(_NEWS, end - time.monotonic())
            if left > pause and self._keeper.wait_for_end(self, left):
                continue
            native.Latch().wait(pause)
        return self._announced

    def __await__(self) -> Generator[Any, None, R]:
        if self.runs_here:
            return (yield from super().__await__())
        yield from self._ended().__await__()
        return self.result(0)

    async def _ended(self) -> None:
        import asyncio

        for pause in self._looks(deadline(None)):
            await asyncio.sleep(pause)

    def _looks(self, end: float) -> Iterator[float]:
        """Look at the record until it has ended or the time is up (``monotonic``).

        Gives how long to wait before each next look. Outlasts a short outage, and raises BrokerError for one
        that takes longer.
        """
        lost_at, pause = None, _SOON
        while True:
            now = time.monotonic()
            try:
                if self._announced or self.status.is_final:
                    return
                lost_at = None
            except BrokerError:
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > _PATIENCE or now >= end:
                    raise
            if now >= end:
                return
            yield min(pause, end - now)
            pause = min(_LONGER * pause, _LATER)

    def take(self, record: Record) -> None:
        """Know what the record says. An end that was seen is the last word."""
        with self._host.lock:
            if not self._announced:
                self._learn(record.status, record.attempt_of(self.id))

    def _look(self) -> None:
        if not (self._announced or self.here):
            record = self._keeper.look(self)
            if record is not None:  # else it ended so long ago that its record is gone
                self.take(record)
