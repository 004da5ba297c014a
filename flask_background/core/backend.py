"""The contract of backends: where an enqueued item goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flask_background.core.item import WorkItem

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.request_state import RequestState


class Phase(Enum):
    """How far a process is with stopping."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Items are asked to end; new ones are still accepted, for requests that are being finished."""
    STOPPED = "stopped"


class Stats(NamedTuple):
    """How many items of an app are in flight in this process, and how many have ended in it."""

    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    interrupted: int


class Companion(Protocol):
    """Who holds durable items here, and so has a part in the stop."""

    def stop_begins(self) -> None: ...
    def expect_kill(self) -> None: ...
    def stopped(self) -> None: ...


class Backend(ABC):
    """Accepts items."""

    #: Whether items may have a key, and uploads among their arguments; what asks for it else is refused.
    takes_keys: bool = True
    takes_uploads: bool = True

    @abstractmethod
    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        """Make the item of a call, for ``accept`` or ``hold``."""

    @abstractmethod
    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        """Take an item; raises EnqueueError. A held one waits for ``release`` or ``drop``.

        ``due``: when it may start (``time.time()``), if not now. Returns the item, or the one in flight that
        has the same key.
        """

    @abstractmethod
    def release(self, item: WorkItem[Any]) -> None:
        """Let a held item start, unless it was cancelled meanwhile."""

    @abstractmethod
    def drop(self, item: WorkItem[Any], why: str) -> None:
        """Cancel a held item, or one on hold; why: as in "its view ended with KeyError"."""

    @abstractmethod
    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        """Take an item that no other process is to know of before ``enter``; raises like accept."""

    @abstractmethod
    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        """Go on with an item on hold as ``accept`` does, unless it was cancelled meanwhile."""


class InProcessBackend(Backend):
    """Accepts items, knows them, and ends them when the host stops."""

    @abstractmethod
    def get(self, item_id: str) -> WorkItem[Any] | None:
        """The item with this id, if it is in flight or among those that ended last."""

    @abstractmethod
    def items(self) -> Iterable[WorkItem[Any]]:
        """The items in flight, and those that ended last, oldest first."""

    @abstractmethod
    def stats(self) -> Stats:
        """Count them."""

    @abstractmethod
    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no item is in flight; False after timeout seconds."""

    @abstractmethod
    def stop(self, grace: float | None) -> list[WorkItem[Any]]:
        """Stop now, giving items so many seconds; returns those that had not ended."""
