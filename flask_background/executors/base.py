"""The contract of executors: they run items in this process, and report nothing: a run ends itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem


class Executor(ABC):
    """Runs items, at most ``capacity`` at once. Starts nothing before the first one.

    ``queued`` and ``running`` are its items by id, kept by the backend's ledger.
    """

    coroutines_only: ClassVar[bool] = False

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.queued: dict[str, WorkItem[Any]] = {}
        self.running: dict[str, WorkItem[Any]] = {}

    def check(self, task: Callee) -> None:
        """Raise ConfigurationError if the task cannot run here."""

    def prepare(self, item: WorkItem[Any]) -> None:
        """Check an item of this process, in the view, and make it ready. May raise ArgumentError."""

    @abstractmethod
    def put(self, item: WorkItem[Any]) -> None:
        """Take an item to run. Never blocks; called on any thread, with no lock held."""

    def run_here(self, item: WorkItem[Any]) -> None:
        """Run an item on the caller's thread, if that can be; else ``put`` it."""
        self.put(item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        """Start an item in the place of one that waits; False if it does not wait for a place here.

        An item that waits for its time, or for a response, has not been put, and waits for no place. May
        raise RuntimeError.
        """
        return False

    def have_thread(self) -> None:
        """Start a thread if items wait and there is none. Raises nothing; called now and then."""

    def is_here(self) -> bool:
        """Whether the caller runs where items must not wait for one another."""
        return False

    @abstractmethod
    def abort(self) -> None:
        """The grace period is over: cancel what can be cancelled, so that it can clean up."""

    @abstractmethod
    def close(self) -> None:
        """End the threads once they have nothing to do. Nothing is put afterwards."""
