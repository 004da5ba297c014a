"""The contract of backends: where an enqueued item goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from flask_background.core.item import WorkItem
from flask_background.errors import EnqueueError

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.request_state import RequestState

Item = TypeVar("Item", bound=WorkItem[Any])


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


class Overflow(Exception):
    """The executor of an item is full, and BACKGROUND_OVERFLOW lets the item go to the journal.

    ``refusal`` is the error of a caller whose item cannot go there.
    """

    def __init__(self, refusal: EnqueueError) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class Entry(NamedTuple, Generic[Item]):
    """One item of a batch; ``due`` as in ``Backend.accept``; ``number``: its place among the calls."""

    item: Item
    due: float | None
    number: int

    def refusing(self, error: Exception) -> Exception:
        """Return the error for the caller of the batch, of which this item is the one that was refused."""
        return name_call(error, self.number, self.item.task_name)


def name_call(error: Exception, number: int, task_name: str) -> Exception:
    """Return an error of the same class that says which call of a batch is to blame."""
    return type(error)(f"calls[{number}] ({task_name}): {error} (none of the calls was enqueued)")


class Backend(ABC, Generic[Item]):
    """Accepts items; ``Item`` is the class of the items that it makes and accepts.

    A *held* item is accepted, and starts when the response has been sent. A *reserved* item waits for the
    commit of a transaction, and is not submitted before: no other process may see it.
    """

    #: Whether items may have a key, and uploads among their arguments; False: enqueue refuses both.
    takes_keys: bool = True
    takes_uploads: bool = True
    #: Whether a batch can be entered, all items or none.
    takes_batches: bool = True
    #: Whether items can be taken back that ``accept_many`` has entered.
    can_retract: bool = False

    @abstractmethod
    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> Item:
        """Make the item of a call, for ``accept`` or ``reserve``."""

    @abstractmethod
    def accept(self, item: Item, held: bool = False, due: float | None = None) -> WorkItem[Any]:
        """Take an item, and return it, or the item in flight with the same key; raise EnqueueError.

        ``due``: when the item may start (``time.time()``), or None for now. A held item waits for
        ``start_held`` or ``cancel_held``.
        """

    def accept_many(self, entries: Sequence[Entry[Item]], rest: Callable[[], object]) -> list[WorkItem[Any]]:
        """Take items, all or none, and return them as ``accept`` does, in order; raise EnqueueError.

        ``rest`` enters the other items of the batch. If it raises, these are not entered either, or taken
        back.
        """
        rest()
        return [self.accept(entry.item, due=entry.due) for entry in entries]

    @abstractmethod
    def start_held(self, item: Item) -> None:
        """Let a held item start, unless it has been cancelled."""

    @abstractmethod
    def cancel_held(self, item: Item, why: str) -> None:
        """Cancel a held or reserved item; why: a clause such as "its view ended with KeyError"."""

    @abstractmethod
    def reserve(self, item: Item) -> WorkItem[Any]:
        """Take an item that waits for ``submit_reserved`` or ``cancel_held``; raises like ``accept``."""

    @abstractmethod
    def submit_reserved(self, item: Item, due: float | None) -> None:
        """Accept a reserved item as ``accept`` does, unless it has been cancelled."""


class InProcessBackend(Backend[WorkItem[Any]]):
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
