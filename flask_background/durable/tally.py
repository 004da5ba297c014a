"""Adds the items of this process's memory that have ended to the journal's tally, now and then."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask_background.durable.journal import tally
from flask_background.durable.journal.tally import TallyRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_background.durable.session import JournalSession
    from flask_background.local.tally import TallyKey, Totals

# How often the items are added, in seconds.
_EVERY = 10.0


class TallyWriter:
    """Writes the tally of one process's memory."""

    def __init__(self, session: JournalSession) -> None:
        self._writer = session.writer
        self._ledger = session.local.ledger
        self._ledger.tally()  # items that end from now on are counted
        self._written_at = 0.0

    def look(self, now: float) -> None:
        """Add the items, if it is time. Raises JournalError; then the items are added the next time."""
        if abs(now - self._written_at) < _EVERY:
            return
        self._written_at = now
        memory = self._ledger.tally()
        taken = memory.take()
        if taken:
            try:
                self._writer.write(partial(tally.add, rows=rows_of(taken)), sync=False)
            except BaseException:
                memory.add(taken)
                raise

    def close(self) -> None:
        """Add the last items, as soon as the journal can be written."""
        taken = self._ledger.tally().take()
        if taken:
            self._writer.write_later(partial(tally.add, rows=rows_of(taken)), sync=False)


def rows_of(totals: Mapping[TallyKey, Totals]) -> list[TallyRow]:
    """Return counts of the memory as rows of the journal."""
    return [TallyRow(*key, *found) for key, found in totals.items()]
