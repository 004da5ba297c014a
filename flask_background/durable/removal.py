"""The removal of ended items and their uploads, some at a time: other steps are written in between."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask_background.concurrency import native
from flask_background.durable.journal import outbox, statements, tally

if TYPE_CHECKING:
    from collections.abc import Collection

    from flask_background.core.status import Status
    from flask_background.durable.session import JournalSession

# How many items one transaction removes.
_MOST = 100
#: How long other threads and processes may write between two such transactions, in seconds.
BREATH = 0.02
# How long uploads are kept for an item that the journal does not know, in seconds: the item may be about to
# be entered. The uploads of all items are looked at that often.
_ORPHANED = 3_600.0


class Removal:
    """Removes items from one journal. ``keep``: how long an item is kept after its end, in seconds."""

    def __init__(self, session: JournalSession, keep: float) -> None:
        self._session = session
        self._keep = keep
        self._orphans_at = 0.0

    def prune(self, now: float) -> bool:
        """Remove some items that ended long ago, and condense the tally; return whether there may be more.

        Raises JournalError.
        """
        writer, before = self._session.writer, now - self._keep
        gone = writer.write(partial(statements.prune, before=before, limit=_MOST), sync=False)
        self._forget_uploads(gone)
        count = writer.write(partial(outbox.prune, before=before, limit=_MOST), sync=False)
        is_more = writer.write(partial(tally.condense, now=now), sync=False)
        return is_more or _MOST in (len(gone), count)

    def purge(self, statuses: Collection[Status]) -> int:
        """Remove all items that ended with these statuses; return their number. Raises JournalError."""
        writer, total, count = self._session.writer, 0, _MOST
        while count == _MOST:
            gone = writer.write(partial(statements.purge, statuses=statuses, limit=_MOST), sync=False)
            self._forget_uploads(gone)
            count = len(gone)
            total += count
            native.sleep(BREATH if count == _MOST else 0.0)
        return total + writer.write(partial(outbox.purge, statuses=statuses))

    def remove_orphans(self, now: float) -> None:
        """Remove uploads of items that the journal does not know. Raises JournalError."""
        if abs(now - self._orphans_at) < _ORPHANED:
            return
        self._orphans_at = now
        for item_id in self._session.uploads.orphans(now - _ORPHANED):
            if self._session.read_row(item_id) is None:
                self._session.uploads.forget(item_id)

    def _forget_uploads(self, item_ids: Collection[str]) -> None:
        for item_id in item_ids:
            self._session.uploads.forget(item_id)
