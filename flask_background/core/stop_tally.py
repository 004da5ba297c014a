"""The tally of a stop: how many items were handed over, which interrupted ones run again, which are lost."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flask_background.core.item import WorkItem


class StopTally:
    """Counts, for the last log line of a stop, the items that the stop kept from ending here."""

    def __init__(self) -> None:
        self._since: float | None = None  # when the stop began to wait for items (``time.monotonic()``)
        #: How many items that had not started were handed over to other processes.
        self.handed_over = 0
        self._run_again: set[str] = set()
        self._lost: set[str] = set()

    def begin(self) -> None:
        """Note that the stop begins to wait for items."""
        self._since = time.monotonic()

    def interrupted(self, item: WorkItem[Any]) -> None:
        """Count an item that was interrupted."""
        (self._run_again if is_kept(item) else self._lost).add(item.id)

    def runs_again(self, item: WorkItem[Any]) -> None:
        """Count an item that runs again."""
        self._run_again.add(item.id)

    def ended(self, item: WorkItem[Any]) -> None:
        """Leave out an item that was interrupted and has ended after all."""
        self._run_again.discard(item.id)
        self._lost.discard(item.id)

    def seconds(self) -> float | None:
        """Return how long the stop has waited for items, in seconds; None if it did not wait."""
        return None if self._since is None else time.monotonic() - self._since

    def count(self, unfinished: Iterable[WorkItem[Any]]) -> tuple[int, int]:
        """Return how many items run again, and how many are lost; unfinished ones count as interrupted."""
        for item in unfinished:
            self.interrupted(item)
        return len(self._run_again), len(self._lost - self._run_again)


def is_kept(item: WorkItem[Any]) -> bool:
    """Return whether an item outlives this process."""
    return bool(getattr(item._host, "keeps_items", False))
