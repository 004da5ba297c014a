"""The contract of records: what every process of the app can ask of an item, and do to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

from flask_background.celery.records.record import Record
from flask_background.core.status import Status
from flask_background.errors import BrokerError

#: How long a run may show no sign of life until it counts as dead, in seconds.
LOST_AFTER = 4.0


class RunId(NamedTuple):
    """One run of an item, with a token of its own, so that a late writer is told from the next run."""

    item_id: str
    token: str


class Records(ABC):
    """The records of an app's items. Every method may raise BrokerError.

    A change that belongs to a run takes effect only while the record still names that run.
    """

    #: Whether the backend compares and exchanges records, lists the items in flight, and keeps keys. Without
    #: that, Celery's broker alone decides which message comes again, and when.
    is_full: ClassVar[bool]

    @abstractmethod
    def put(self, item_id: str, record: Record, *, message_follows: bool) -> str | None:
        """Write the first record of an item. Returns the id of the item in flight that has its key, if any.

        ``message_follows``: the caller sends the item's message now; otherwise one is sent when it is due.
        An item that has a record already keeps that.
        """

    @contextmanager
    def putting(self, item_id: str, record: Record) -> Iterator[None]:
        """Put the first record of an item that has no key, while the caller sends its message."""
        self.put(item_id, record, message_follows=True)
        yield

    @abstractmethod
    def withdraw(self, item_id: str) -> bool:
        """Forget an item that has not started. False if it has."""

    @abstractmethod
    def read(self, item_id: str) -> Record | None:
        """An item's record, without its arguments; None if there is none."""

    def holder(self, key: str) -> str | None:
        """The id of the item that has a key, by the name that stands for it; None where there are no keys."""
        return None

    @abstractmethod
    def claim(self, run: RunId, limit: float | None, sent: Record | None) -> Record | None:
        """Put on record that this run of an item begins, and return the record, with the arguments.

        ``limit``: after how many seconds Celery kills the run's process. ``sent``: the record that came with
        the message. None if the item is not to run now: it runs, has ended, or is not due.
        """

    @abstractmethod
    def defer(self, item_id: str) -> None:
        """Put a queued item off, each time for longer: this worker cannot run it."""

    @abstractmethod
    def settle(
        self,
        run: RunId,
        status: Status,
        due: float | None = None,
        *,
        only_if_silent: bool = False,
        **fields: Any,
    ) -> bool:
        """Put on record how a run has ended its item, or with QUEUED that another run follows.

        ``due``: when that may start (``time.time()``; None: now). False if the item is not this run's any
        more. ``only_if_silent``: nothing happens if the run has shown a sign of life lately, either.
        """

    @abstractmethod
    def report(self, run: RunId, progress: str) -> None:
        """Put a run's progress on record."""

    @abstractmethod
    def cancel(self, item_id: str, *, force: bool = False) -> Literal["cancelled", "asked"] | None:
        """Cancel a queued item, or ask a running one to end; None if it has ended.

        ``force``: a running one is cancelled too, for Celery has killed its run.
        """

    @abstractmethod
    def beat(self, runs: Sequence[RunId], *, is_stopping: bool) -> list[bool]:
        """Show that these runs are alive. Says for each whether somebody wants its end.

        ``is_stopping``: their worker stops, so should they die now, that is no crash.
        """

    def in_flight(self, home: str, limit: int) -> list[tuple[str, Record]]:
        """The items of an app that are queued or running, without their arguments, at most so many of each.

        Those enqueued last come first. None where items are not listed.
        """
        return []

    def count_in_flight(self, home: str) -> dict[Status, int]:
        """How many items of an app are queued, and how many run; empty where items are not listed."""
        return {}

    def wait_for_end(self, item_id: str, seconds: float) -> bool:
        """Wait up to so many seconds for the end of an item. False, at once, where records tell no ends."""
        return False


@contextmanager
def reaching() -> Iterator[None]:
    """Raise what goes wrong inside as BrokerError."""
    try:
        yield
    except BrokerError:
        raise
    except Exception as error:
        raise BrokerError(f"Celery's result backend cannot be reached: {error}") from error
