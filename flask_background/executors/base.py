"""The contract of executors: they run items in this process, and return nothing: a run ends its item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem


class Executor(ABC):
    """Runs items, at most ``capacity`` at the same time. Starts no thread before the first item.

    ``queued`` and ``running`` are its items by id, kept by the backend's ledger.
    """

    coroutines_only: ClassVar[bool] = False

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.queued: dict[str, WorkItem[Any]] = {}
        self.running: dict[str, WorkItem[Any]] = {}
        #: Until when it starts no durable item, because it cannot run any (``time.monotonic()``).
        self.unable_until = 0.0

    def check(self, task: Callee) -> None:
        """Raise ConfigurationError if the task cannot run here."""

    def prepare(self, item: WorkItem[Any]) -> None:
        """Check an item of this process, in the view, and prepare its arguments. May raise ArgumentError."""

    def arguments_of(self, item: WorkItem[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a queued item as its view gave them, whatever ``prepare`` made of them."""
        return item._args, item._kwargs or {}

    @abstractmethod
    def put(self, item: WorkItem[Any]) -> None:
        """Take an item to run. Never blocks; called on any thread, with no lock held."""

    def run_here(self, item: WorkItem[Any]) -> None:
        """Run an item on the caller's thread, if possible; otherwise ``put`` it."""
        self.put(item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        """Start an item in the place of one that waits; False if it does not wait for a place here.

        An item that waits for its time, or for a response, has not been put, and waits for no place. May
        raise RuntimeError.
        """
        return False

    def have_thread(self) -> None:
        """Start a thread if items wait and none runs. Raises nothing; called now and then."""

    def is_here(self) -> bool:
        """Return whether the caller runs where items must not wait for one another."""
        return False

    @abstractmethod
    def abort(self) -> None:
        """Cancel what can be cancelled, so that it can clean up: the grace period is over."""

    @abstractmethod
    def close(self) -> None:
        """End the threads once they have nothing to do. No item is put afterwards."""
