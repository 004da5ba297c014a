"""The base of handles to items that other processes may run: a handle looks before it says anything."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from flask_background.core.item import WorkItem
from flask_background.core.status import Progress, Status

R = TypeVar("R", covariant=True)


class RemoteItem(WorkItem[R]):
    """A work item that other processes may run. Every property is true when it is asked for."""

    __slots__ = ("__weakref__", "here")

    #: Whether the item is in this process, whose own news is the latest then.
    here: bool

    def _look(self) -> None:
        """Learn how the item stands, unless it is in this process, or has ended for good."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """Where the item stands."""
        self._look()
        return self._status

    @property
    def progress(self) -> Progress | None:
        """The progress that the item last reported; None before that."""
        self._look()
        return super().progress

    @property
    def attempt(self) -> int:
        """The number of the current or last run: 0 before the first one."""
        self._look()
        return super().attempt

    @property
    def started_at(self) -> datetime | None:
        """When the item's last run began, in UTC; None before the first one."""
        self._look()
        return super().started_at

    @property
    def finished_at(self) -> datetime | None:
        """When the item ended, in UTC; None before that."""
        self._look()
        return super().finished_at
