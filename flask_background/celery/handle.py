"""The handle of an item that runs on another machine: it knows what the item's record says."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, cast

from flask_background.concurrency import native
from flask_background.core.item import Callee, ItemHost
from flask_background.core.remote_item import RemoteItem
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.record import Record
    from flask_background.core.request_state import RequestState

R = TypeVar("R", covariant=True)

# How long somebody who waits does not read the record, at first and after a while, in seconds: each time by
# so much longer, so that an end is seen late by a part of what it took. Who is told of it needs few looks.
_SOON, _LATER, _LONGER = 0.002, 0.25, 1.25
# How long whoever waits tries to be told of it, in seconds.
_LISTENING = 1.0
# How long an outage may take in which somebody waits, in seconds.
_PATIENCE = 30.0


class RecordKeeper(ItemHost, Protocol):
    """What the handle needs of the backend that keeps the records."""

    def look(self, item: CeleryItem[Any]) -> Record | None: ...
    def listen(
        self, item: CeleryItem[Any], seconds: float
    ) -> AbstractContextManager[Callable[[float], None] | None]: ...


class _Look(NamedTuple):
    """How long to wait before the next one, and whether this one has got an answer."""

    pause: float
    is_known: bool


class CeleryItem(RemoteItem[R]):
    """A work item that other machines run. What it says is as its record is when it is asked."""

    __slots__ = ("in_outbox", "runs_here")

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
        super().__init__(task, args, kwargs, state, keeper)

    @classmethod
    def of(cls, item_id: str, record: Record, task: Callee, keeper: RecordKeeper) -> Self:
        """The handle of an item that was enqueued elsewhere."""
        item = cls(task, (), {}, record.request_state(), keeper)
        item._identify(item_id, record.enqueued)
        item.here = False
        item.take(record)
        return item

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end, wherever that comes."""
        if self.runs_here:
            return super().wait(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        looks = self._looks(end)
        first = next(looks, None)
        if first is None:  # the usual case of who asks late
            return self._announced
        left = _LISTENING if end is None else end - time.monotonic()
        if not first.is_known or left < _LATER:  # it is not worth it, or would only take longer
            for look in itertools.chain([first], looks):
                native.Latch().wait(look.pause)
            return self._announced
        with cast(RecordKeeper, self._host).listen(self, min(left, _LISTENING)) as hear:
            for look in looks if hear is None else self._looks(end, _LATER):
                (hear or native.Latch().wait)(look.pause)
        return self._announced

    def __await__(self) -> Generator[Any, None, R]:
        if self.runs_here:
            return (yield from super().__await__())
        yield from self._ended().__await__()
        return self.result(0)

    async def _ended(self) -> None:
        import asyncio

        for look in self._looks(None):
            await asyncio.sleep(look.pause)

    def _looks(self, end: float | None, pause: float = _SOON) -> Iterator[_Look]:
        """Looks, and what to do before each next one, until it has ended or the time is up (``monotonic``).

        Who waits outlasts a short outage; raises BrokerError for one that takes longer.
        """
        lost_at = None
        while True:
            now = time.monotonic()
            try:
                if self._announced or self.status.is_final:
                    return
                lost_at = None
            except BrokerError:
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > _PATIENCE or (end is not None and now >= end):
                    raise
            if end is not None and now >= end:
                return
            yield _Look(pause if end is None else min(pause, end - now), lost_at is None)
            pause = min(_LONGER * pause, _LATER)

    def take(self, record: Record) -> None:
        """Know what the record says. An end that was seen is the last word."""
        attempt = record._replace(task=self.task_name).attempt_of(self.id)  # Celery's own do not say it
        with self._host.lock:
            if not self._announced:
                self._learn(record.status, attempt)

    def _look(self) -> None:
        if not (self._announced or self.here):
            record = cast(RecordKeeper, self._host).look(self)
            if record is not None:  # else it ended so long ago that its record is gone
                self.take(record)
