"""The part of a Monitor that is kept from one look to the next, for each app in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_background.monitoring.counting import JournalCounts
from flask_background.monitoring.tallies import TallyReader

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


class Kept:
    """Counts and steps of the tally that need not be read again, and the last error of Celery.

    It does not refer to the app's state, which refers to it: there would be a cycle.
    """

    def __init__(self) -> None:
        self.counts = JournalCounts()
        self.tally = TallyReader()
        self.celery_error: str | None = None
        #: Until when (``time.monotonic()``) Celery is not asked again, after it could not be asked.
        self.celery_rests_until = 0.0


def kept_of(state: BackgroundState) -> Kept:
    """Return what is kept for an app."""
    kept = state.kept_for_monitors
    if not isinstance(kept, Kept):
        kept = state.kept_for_monitors = Kept()
    return kept
