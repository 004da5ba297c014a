"""The runs of durable items: what the journal hears of them, and when they leave this process.

Before a run its beginning is written to this process's own file, so that whoever recovers its items after a
crash knows which of them were running. The end is put into the journal, and told when it is on disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..item import WorkItem
from ..journal import store
from ..journaled import JournaledItem
from ..packing import Packing, error_as_data, progress_as_data, result_as_data
from ..status import Attempt, Outcome, Progress, Status

if TYPE_CHECKING:
    from ..alarms import Alarm
    from ..journal.owner import Owner
    from ..journal.writer import Writer
    from ..token import CancellationSource
    from .local import LocalBackend

# A run may report its progress as often as it likes; the journal hears of it so often, in seconds.
_REPORT_EVERY = 0.25


class DurableRuns:
    """What a run needs of the backend that holds its item, with the journal behind it."""

    def __init__(self, local: LocalBackend, writer: Writer, owner: Owner, packing: Packing) -> None:
        self.app = local.app
        self.pid = os.getpid()
        self.lock = local.lock
        self.local = local
        self.writer = writer
        self.owner = owner
        self.packing = packing

    def start(self, item: WorkItem[Any], run: Attempt) -> bool:
        """Make the arguments, and claim the item for its run; False if it was withdrawn, or does not fit."""
        assert isinstance(item, JournaledItem) and item.entry is not None
        entry = item.entry
        try:
            item._args, kwargs, item._uploads = self.packing.unpack(entry)
            item._kwargs = kwargs or None
            item._task.check_call(*item._args, **kwargs)
        except Exception as error:
            self.park(item, f"its arguments do not fit any more: {error}")
            return False
        self.owner.begin(item.id)
        if not self.local.start(item, run):
            self.owner.end(item.id)
            return False
        run.number = entry.attempt + 1
        self.writer.later(partial(store.start, id=item.id, fence=entry.fence, now=run.started), sync=False)
        return True

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Put what a run has come to into the journal; when it is there, tell it."""
        assert isinstance(item, JournaledItem) and item.entry is not None
        status, value, error = outcome
        entry, now = item.entry, time.time()
        if status is Status.INTERRUPTED:
            self._leave(item, store.release, charged=False)
            return
        delay = item._task.options.retry.delay_after(run.number, error) if status is Status.FAILED else None
        if delay is not None:
            ...
