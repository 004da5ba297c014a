"""The contract of what is measured: how a thread enqueues, and how a process consumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple


class Place(NamedTuple):
    """Where the queues of one table are: a temporary folder, and a Redis on loopback."""

    folder: Path
    redis_port: int

    @property
    def redis_url(self) -> str:
        """The Redis, as clients name it."""
        return f"redis://127.0.0.1:{self.redis_port}/0"


class Durable(ABC):
    """One way to put an item where it stays. Made anew in every process that uses it."""

    name: ClassVar[str]

    def __init__(self, place: Place) -> None:
        self.place = place

    @contextmanager
    def producer(self) -> Iterator[Callable[[str], Any]]:
        """What a thread enqueues an item with; the item takes one string. All at once use it."""
        yield self.enqueue

    @abstractmethod
    def enqueue(self, argument: str) -> Any:
        """Put one item there, and return when it is."""

    def close(self) -> None:
        """End its threads, and let go of its files and connections."""


class Queue(Durable):
    """One that has consumers. The item is ``work.tell``."""

    #: How many processes have to be started, so that two run items.
    processes: ClassVar[int] = 2
    #: What part of the items it is given, end to end: a slow one would hold up the table.
    part: ClassVar[float] = 1.0

    @abstractmethod
    def consume(self) -> object:
        """Run items, until this process is told to end by SIGTERM."""

    def settle(self, items: Sequence[Any]) -> None:
        """Wait until these have ended, where that is more than that they ran."""
