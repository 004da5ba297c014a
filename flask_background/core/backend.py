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
    """How far a process has come in stopping."""

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
    """The part of a stop that concerns durable items: implemented by the backend that holds them here."""

    def stop_begins(self) -> None: ...
    def expect_kill(self) -> None: ...
    def stopped(self) -> None: ...


class Backend(ABC):
    """Accepts items."""

    #: Whether items may have a key, and uploads among their arguments; False: enqueue refuses both.
    takes_keys: bool = True
    takes_uploads: bool = True

    @abstractmethod
    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        """Make the item of a call, for ``accept`` or ``hold``."""

    @abstractmethod
    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        """Take an item, and return it, or the item in flight with the same key; raise EnqueueError.

        ``due``: when the item may start (``time.time()``), or None for now. A held item waits for ``release``
        or ``drop``.
        """

    @abstractmethod
    def release(self, item: WorkItem[Any]) -> None:
        """Let a held item start, unless it has been cancelled."""

    @abstractmethod
    def drop(self, item: WorkItem[Any], why: str) -> None:
        """Cancel an item that is held or on hold; why: a clause such as "its view ended with KeyError"."""

    @abstractmethod
    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        """Take an item that no other process may see before ``enter``; raises like ``accept``."""

    @abstractmethod
    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        """Accept an item on hold as ``accept`` does, unless it has been cancelled."""


class InProcessBackend(Backend):
    """A backend that holds items in this process, and ends them when the host stops."""

    @abstractmethod
    def get(self, item_id: str) -> WorkItem[Any] | None:
        """Return the item with this id if it is in flight or among the last ones that ended."""

    @abstractmethod
    def items(self) -> Iterable[WorkItem[Any]]:
        """Return the last items that ended and the items in flight, oldest first."""

    @abstractmethod
    def stats(self) -> Stats:
        """Count the items."""

    @abstractmethod
    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no item is in flight; False after timeout seconds."""

    @abstractmethod
    def stop(self, grace: float | None) -> list[WorkItem[Any]]:
        """Stop now: give items grace seconds to end, and return those that had not ended."""
