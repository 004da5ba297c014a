"""The base of handles of items that another process may run: a handle looks the item up first."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from flask_background.core.item import WorkItem
from flask_background.core.status import Progress, Status

R = TypeVar("R", covariant=True)


class RemoteItem(WorkItem[R]):
    """A work item that another process may run. Every property is up to date when it is read."""

    __slots__ = ("__weakref__", "here")

    #: Whether this process runs the item, and so knows its latest status.
    here: bool

    def _look(self) -> None:
        """Look the item up, unless this process runs it or it has ended for good."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """The item's status."""
        self._look()
        return self._status

    @property
    def progress(self) -> Progress | None:
        """The last progress that the item reported; None before the first report."""
        self._look()
        return super().progress

    @property
    def attempt(self) -> int:
        """The number of the current or last run; 0 before the first run."""
        self._look()
        return super().attempt

    @property
    def started_at(self) -> datetime | None:
        """The time at which the item's last run began, in UTC; None before the first run."""
        self._look()
        return super().started_at

    @property
    def finished_at(self) -> datetime | None:
        """The time at which the item ended, in UTC; None before that."""
        self._look()
        return super().finished_at
