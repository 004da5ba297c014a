"""The handle of a durable item: where the item is not in this process, the journal knows about it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.item import Callee, ItemHost
from flask_background.core.remote_item import RemoteItem
from flask_background.core.status import Attempt, Progress, Status

if TYPE_CHECKING:
    from flask_background.core.request_state import RequestState
    from flask_background.durable.journal.row import ItemRow

R = TypeVar("R", covariant=True)

# How often somebody who waits looks into the journal while the item is elsewhere, in seconds.
_LOOK = 0.05
# It may leave this process while somebody waits for its end here.
_STAY = 0.5


class JournalKeeper(ItemHost, Protocol):
    """What the handle needs of the backend that keeps the journal."""

    def in_this_process(self) -> JournalKeeper: ...
    def look(self, item_id: str) -> ItemRow | None: ...
    def read_attempt(self, entry: ItemRow) -> Attempt: ...
    def report(self, item: DurableItem[Any], progress: Progress) -> None: ...


class DurableItem(RemoteItem[R]):
    """A durable work item. What it says is true whichever process of the app runs it."""

    __slots__ = ("entry", "held", "reported")

    def __init__(
        self,
        task: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: RequestState | None,
        keeper: JournalKeeper,
    ) -> None:
        #: Whether it is queued or running in this process, which then knows more than the journal.
        self.here = True
        self.entry: ItemRow | None = None
        #: Whether it waits for a response.
        self.held = False
        #: When the journal last heard of its progress, or will (``time.monotonic()``).
        self.reported = 0.0
        super().__init__(task, args, kwargs, state, keeper)
        # In the order of time, so that what is enqueued together lies together in the journal's index.
        self.id = f"{int(self._enqueued * 16) & 0xFFFF_FFFF:08x}{self.id[8:]}"

    @classmethod
    def of(cls, entry: ItemRow, task: Callee, state: RequestState | None, keeper: JournalKeeper) -> Self:
        """The handle of an item that is in the journal, and not here."""
        item = cls(task, (), {}, state, keeper)
        item.id, item._enqueued, item.entry, item.here = entry.id, entry.enqueued, entry, False
        return item

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is, so that every process of the app can show it."""
        super().report_progress(done, total, message)
        if self._keeper.pid != os.getpid():  # a child that its run has forked: the run itself is the parent's
            return
        if self.here and self._attempt is not None and self._attempt.progress is not None:
            cast(JournalKeeper, self._keeper).report(self, self._attempt.progress)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end, wherever that comes."""
        if self._announced:
            return True
        self._follow_fork()
        end = deadline(timeout)
        while True:
            left = max(0.0, end - time.monotonic())
            if self.here:
                if super().wait(min(_STAY, left)) and self._announced:
                    return True
            elif self.status.is_final:
                return True
            else:
                native.Latch().wait(min(_LOOK, left))
            if left == 0.0:
                return not self.here and self.status.is_final

    def __await__(self) -> Generator[Any, None, R]:
        yield from self._ended().__await__()
        return self.result(0)

    async def _ended(self) -> None:
        import asyncio

        if not self._announced:
            self._follow_fork()
        while not (self._announced if self.here else self.status.is_final):
            await asyncio.sleep(_LOOK)

    def cancel(self) -> bool:
        """Take it back, or ask it to end, wherever it is. False if it had ended."""
        self._follow_fork()
        return super().cancel()

    def arrive(self, entry: ItemRow) -> None:
        """It has been claimed for this process, perhaps not for the first time."""
        with self._keeper.lock:
            self.entry, self.here, self.status = entry, True, Status.QUEUED
            self._attempt, self._announced = None, False
            self.forget_token()

    def leave(self) -> None:
        """From now on the journal knows where it stands, not this process."""
        self.here = False
        self._wake()

    def _follow_fork(self) -> None:
        """In a forked child: the item is the parent's, and the way to the journal that was inherited too."""
        if self._keeper.pid != os.getpid():
            self.here = False
            self._keeper = cast(JournalKeeper, self._keeper).in_this_process()

    def doubt(self, entry: ItemRow, owner: str) -> None:
        """Look again if the end that was seen here is not the last word: somebody may have had it retried.

        ``entry`` is what the journal says, and ``owner`` this process, whose own news may not be there yet.
        """
        if self._announced and self.entry is not None and entry.fence >= self.entry.fence:
            is_news = entry.status is not self.status and entry.owner != owner
            if is_news or entry.fence > self.entry.fence:
                self.here = self._announced = False

    def _look(self) -> None:
        """Read what the journal knows, unless the item is here, or has ended for good."""
        if self._announced:
            return
        self._follow_fork()
        if self.here:
            return
        keeper = cast(JournalKeeper, self._keeper)
        entry = keeper.look(self.id)
        if entry is None:  # ended so long ago that the journal has let it go
            return
        attempt = keeper.read_attempt(entry)
        with self._keeper.lock:  # it may have come here meanwhile, or somebody has looked later than we did
            if self.here or self._announced or (self.entry is not None and entry.fence < self.entry.fence):
                return
            self.entry, self._attempt, self.status = entry, attempt, entry.status
            self._announced = entry.status.is_final
