"""What handles have in common whose items may be elsewhere: they look before they say anything."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar, cast

from flask_background.core.item import WorkItem
from flask_background.core.status import Progress, Status

R = TypeVar("R", covariant=True)


class RemoteItem(WorkItem[R]):
    """A work item that other processes may run. What it says is true when it is asked."""

    __slots__ = ("__weakref__", "here")

    #: Whether it is in this process, which then knows all about it.
    here: bool

    def _look(self) -> None:
        """Find out how it stands, unless it is here, or has ended for good."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """Where the item stands."""
        self._look()
        return cast(Status, _status.__get__(self))

    @status.setter
    def status(self, status: Status) -> None:
        _status.__set__(self, status)

    @property
    def progress(self) -> Progress | None:
        """What the item last reported; None before it did."""
        self._look()
        return super().progress

    @property
    def attempt(self) -> int:
        """Which run this is: 0 before the first one."""
        self._look()
        return super().attempt

    @property
    def started_at(self) -> datetime | None:
        """When its last run began, in UTC; None before the first one."""
        self._look()
        return super().started_at

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; None before that."""
        self._look()
        return super().finished_at


_status: Any = WorkItem.__dict__["status"]  # the base's slot
