"""The events of items and of a stop, reported to the log and, where an app may act on them, as signals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flask_background import signals
from flask_background.core.item import WorkItem, ending_item_var
from flask_background.core.log_fields import fields_about, fields_of
from flask_background.core.notices import Notices
from flask_background.core.odd_errors import best_effort, text_of
from flask_background.core.one_line import one_line
from flask_background.core.status import QUEUED, RUNNING, SUCCEEDED, Outcome, Status
from flask_background.core.stop_tally import StopTally, is_kept
from flask_background.errors import EnqueueError

if TYPE_CHECKING:
    from flask import Flask

# How many characters of an error are shown in a line without its traceback.
_LONGEST_ERROR = 500


class Events(Notices):
    """The events of one app: a method for each kind reports it to the log and the signals."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self._tally = StopTally()

    def enqueued(self, item: WorkItem[Any]) -> None:
        """Report that the item was accepted."""
        if self.log.isEnabledFor(logging.DEBUG):
            fields = fields_of(item, QUEUED)
            self._reporter.say(logging.DEBUG, "Item %s (%s) enqueued", item.id, _named(item), fields=fields)
        if signals.item_enqueued.receivers:
            self._reporter.send(signals.item_enqueued, item=item)

    def started(self, item: WorkItem[Any]) -> None:
        """Report that the item's run begins."""
        if self.log.isEnabledFor(logging.DEBUG):
            fields = fields_of(item, RUNNING)
            self._reporter.say(logging.DEBUG, "Item %s (%s) started", item.id, _named(item), fields=fields)
        if signals.item_started.receivers:
            self._reporter.send(signals.item_started, item=item)

    def retried(self, item: WorkItem[Any], error: BaseException, delay: float) -> None:
        """Report that a run failed, and that another one follows in delay seconds."""
        self._reporter.say(
            logging.WARNING,
            "Item %s (%s) failed in attempt %d of %d; the next one follows in %.1f s. %s",
            item.id,
            _named(item),
            item.attempt,
            item._task.retry.max_attempts,
            delay,
            _shown(item, error),
            fields=fields_of(item, QUEUED),
        )
        if signals.item_retried.receivers:
            self._reporter.send(signals.item_retried, item=item, error=error, delay=delay)

    def runs_again(self, item: WorkItem[Any]) -> None:
        """Report that a durable item has ended its run because of the stop, and runs again."""
        self._tally.runs_again(item)
        self._reporter.say(
            logging.INFO,
            "Item %s (%s) interrupted by the stop: it runs again",
            item.id,
            _named(item),
            fields=fields_of(item, QUEUED),
        )

    def finished(self, item: WorkItem[Any], outcome: Outcome, corrects: bool = False) -> None:
        """Report the outcome of an item. ``corrects``: the item was on record as interrupted."""
        status, _, error = outcome
        if status is SUCCEEDED and not corrects:
            if self.log.isEnabledFor(logging.INFO):
                fields = fields_of(item, SUCCEEDED)
                self._reporter.say(
                    logging.INFO, "Item %s (%s) succeeded", item.id, _named(item), fields=fields
                )
        else:
            if status is Status.INTERRUPTED:
                self._tally.interrupted(item)
            elif corrects:
                self._tally.ended(item)
            suffix = " after all; it was reported as interrupted" if corrects else ""
            self._log_end(item, status, error, suffix)
        if signals.item_finished.receivers:
            ending = ending_item_var.set(item)
            try:
                self._reporter.send(signals.item_finished, item=item)
            finally:
                ending_item_var.reset(ending)

    def _log_end(self, item: WorkItem[Any], status: Status, error: BaseException | None, suffix: str) -> None:
        name, fields = f"{item.id} ({_named(item)})", fields_of(item, status)
        if status is Status.FAILED:
            self._reporter.say(logging.ERROR, "Item %s failed%s", name, suffix, exc_info=error, fields=fields)
        elif status is Status.INTERRUPTED and is_kept(item):
            what = "Item %s interrupted, %.1f s old: it runs again, in another process. %s"
            self._reporter.say(logging.WARNING, what, name, item._age, error, fields=fields)
        elif status is Status.INTERRUPTED:
            what = "Item %s interrupted, %.1f s old: %s"
            self._reporter.say(logging.ERROR, what, name, item._age, error, fields=fields)
        elif suffix:
            self._reporter.say(logging.WARNING, "Item %s %s%s", name, status, suffix, fields=fields)
        else:
            self._reporter.say(logging.INFO, "Item %s %s", name, status, fields=fields)

    def dropped(self, item: WorkItem[Any], why: str) -> None:
        """Report why an item was dropped; ``finished`` has been reported before."""
        fields = fields_of(item, Status.CANCELLED)
        self._reporter.say(
            logging.WARNING, "Item %s (%s) dropped: %s", item.id, _named(item), why, fields=fields
        )

    def refused(self, task_name: str, error: EnqueueError) -> None:
        """Report that an item was not accepted."""
        fields = fields_about(None, task_name)
        self._reporter.say(logging.WARNING, "An item (%s) was refused: %s", task_name, error, fields=fields)
        if signals.item_refused.receivers:
            self._reporter.send(signals.item_refused, task_name=task_name, error=error)

    def stopping(self, count: int, grace: float, how_to_cut: str) -> None:
        """Report that the stop begins, with count items in flight."""
        if count:
            self._tally.begin()
            self._reporter.say(
                logging.WARNING,
                "Stopping: waiting up to %.0f s for %d item%s%s",
                grace,
                count,
                "s"[: count != 1],
                how_to_cut,
            )
        if signals.stopping.receivers:
            self._reporter.send(signals.stopping, grace=grace)

    def handed_over(self, count: int, folder: object) -> None:
        """Report that items in memory which had not started are in the journal, for other processes.

        No signal is sent: the process that runs such an item reports its start and its end.
        """
        self._tally.handed_over += count
        self._reporter.say(
            logging.WARNING,
            "Stopping: %d item%s that had not started handed over to the journal in %s; a process of the app"
            " that uses this folder runs %s",
            count,
            "s"[: count != 1],
            folder,
            "it" if count == 1 else "them",
        )

    def stopped(self, unfinished: Sequence[WorkItem[Any]]) -> None:
        """Report that no more items are accepted, and how the stop has ended if it waited for items."""
        if (seconds := self._tally.seconds()) is not None:
            again, lost = self._tally.count(unfinished)
            if handed_over := self._tally.handed_over:
                self._reporter.say(
                    logging.WARNING,
                    "Stopped after %.1f s: %d item%s handed over, %d run%s again, %d lost",
                    seconds,
                    handed_over,
                    "s"[: handed_over != 1],
                    again,
                    "s"[: again == 1],
                    lost,
                )
            elif again or lost:
                self._reporter.say(
                    logging.WARNING,
                    "Stopped after %.1f s: %d item%s run%s again, %d lost",
                    seconds,
                    again,
                    "s"[: again != 1],
                    "s"[: again == 1],
                    lost,
                )
            else:
                self._reporter.say(logging.WARNING, "Stopped: all items done in %.1f s", seconds)
        if signals.stopped.receivers:
            self._reporter.send(signals.stopped, unfinished=list(unfinished))

    def child_ending(self) -> None:
        """Report, in a child process, that the process is about to end."""
        if signals.child_ending.receivers:
            self._reporter.send(signals.child_ending)


def _named(item: WorkItem[Any]) -> str:
    """Return the name of the item's task, and the item's description if there is one."""
    description = item.description
    return item.task_name if description is None else f"{item.task_name}, {description}"


def _shown(item: WorkItem[Any], error: BaseException) -> str:
    """Return the error's type and text, with its notes but the one that names the item, as one line."""
    text = f"{type(error).__name__}: {text_of(error)}"
    with best_effort():  # some errors raise when an attribute is read
        text = " ".join([text, *(note for note in getattr(error, "__notes__", ()) if item.id not in note)])
    return one_line(text, _LONGEST_ERROR)
