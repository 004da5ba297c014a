"""Log lines about other processes and other backends: what became of items there.

Items are known by their ids, because their objects may be in another process; so only the recovery of items
has a signal.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flask_background import signals
from flask_background.core.item import WorkItem
from flask_background.core.log_fields import fields_about, fields_of
from flask_background.core.reporter import Reporter
from flask_background.core.status import QUEUED, RUNNING, Outcome

if TYPE_CHECKING:
    from flask import Flask


class Notices:
    """The log lines of one app about other processes and other backends."""

    def __init__(self, app: Flask) -> None:
        self._reporter = Reporter(app)
        self.log = self._reporter.log
        #: The tasks whose ``describe`` has failed: one line for each is enough.
        self._not_described: set[str] = set()

    def recovered(self, count: int, owner: str, *, stopped: bool = False) -> None:
        """Report that items of a process that died will be run again. ``stopped``: it had begun to stop."""
        self._reporter.say(
            logging.WARNING,
            "%d item%s of process %s, which %s, will be run again",
            count,
            "s"[: count != 1],
            owner,
            "stopped before they had ended" if stopped else "died",
        )
        self._tell_recovered(count)

    def other_user(self, process: str, user: str, this_user: str, folder: object) -> None:
        """Report that another process of the app runs as another user, so that its items may be stuck."""
        self._reporter.say(
            logging.WARNING,
            "Process %s of the app runs as user %s, and this process as user %s: if one of them dies, the"
            " other one may be unable to run its durable items. Run all processes of the app as one user,"
            " and give %s and all that is in it to that user (chown -R)",
            process,
            user,
            this_user,
            folder,
        )

    def handed_back(self, count: int) -> None:
        """Report that durable items which had not started are left to other processes."""
        if count:
            self._reporter.say(
                logging.INFO,
                "Stopping: %d item%s that had not started handed back to the journal",
                count,
                "s"[: count != 1],
            )

    def backend_lost(self, name: str, error: Exception) -> None:
        """Report that a backend became unreachable; called once for all items concerned."""
        self._reporter.say(
            logging.WARNING,
            "%s cannot be reached: until it can be, durable items wait in this machine's journal, and"
            ' those with fallback="local" run here. %s',
            name,
            error,
        )

    def backend_found(self, name: str, seconds: float) -> None:
        """Report that a backend can be reached again, after this many seconds."""
        self._reporter.say(logging.WARNING, "%s is reached again, after %.1f s", name, seconds)

    def forwarded(self, count: int, name: str) -> None:
        """Report that items that waited in the journal were forwarded to a backend."""
        self._reporter.say(
            logging.WARNING,
            "%d item%s that waited in the journal forwarded to %s",
            count,
            "s"[: count != 1],
            name,
        )

    def nobody_forwards(self, count: int) -> None:
        """Report that items in the journal wait for another backend, and that this app has none."""
        self._reporter.say(
            logging.WARNING,
            "%d item%s in the journal wait%s to be forwarded to another backend, and this app has none:"
            " configure that backend again, or cancel them with flask background cancel ID",
            count,
            "s"[: count != 1],
            "s"[: count == 1],
        )

    def nobody_runs(self, reason: str, seconds: float) -> None:
        """Report that no process of the app can run some items, which fail after this many seconds."""
        self._reporter.say(
            logging.WARNING,
            "Durable items wait that no process can run: %s. They fail after waiting for %.0f s"
            " (BACKGROUND_PARK_AFTER)",
            reason,
            seconds,
        )

    def acted(self, what: str, by: str | None) -> None:
        """Report what was done by hand. ``by``: who has asked for it, if that is known."""
        self._reporter.say(logging.INFO, "%s%s", what, "" if by is None else f" by {by}")

    def paused(self, kind: str, name: str, by: str | None) -> None:
        """Report that this process leaves the durable items of a task or an executor alone."""
        self._reporter.say(
            logging.INFO,
            "The %s %s is paused%s: its durable items wait until it is resumed",
            kind,
            name,
            "" if by is None else f" by {by}",
        )

    def requeued(self, item_id: str, task_name: str, age: float) -> None:
        """Report that an item was queued again because its worker stopped; age is in seconds."""
        self._reporter.say(
            logging.WARNING,
            "Item %s (%s) interrupted, %.1f s old: back to its queue",
            item_id,
            task_name,
            age,
            fields=fields_about(item_id, task_name, QUEUED),
        )

    def run_lost(self, item_id: str, task_name: str) -> None:
        """Report that the process of an item's run died, and that another run follows."""
        self._reporter.say(
            logging.WARNING,
            "Item %s (%s) lost its run because a process died: it runs again",
            item_id,
            task_name,
            fields=fields_about(item_id, task_name, QUEUED),
        )
        self._tell_recovered(1)

    def _tell_recovered(self, count: int) -> None:
        if signals.items_recovered.receivers:
            self._reporter.send(signals.items_recovered, count=count)

    def unknown_task(self, task_name: str) -> None:
        """Report that this process lacks a task and leaves its items to others; called once per task."""
        self._reporter.say(
            logging.WARNING,
            "This worker has no task %s: its items wait for a worker that has one. Renew the worker if its"
            " code is older than the site's, or import the task's module where the app is loaded",
            task_name,
        )

    def not_described(self, task_name: str, error: BaseException) -> None:
        """Report once for each task that its ``describe`` failed; the error's text may show an argument."""
        if task_name in self._not_described:
            return
        self._not_described.add(task_name)
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "" if frame is None else f" ({frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno})"
        self._reporter.say(
            logging.WARNING,
            "The describe of task %s raised %s%s: the item is enqueued without a description",
            task_name,
            type(error).__name__,
            where,
            fields=fields_about(None, task_name),
        )

    def beyond_grace(self, item_id: str) -> None:
        """Report that an item runs on after the grace period, because it cannot be ended from outside."""
        self._reporter.say(
            logging.WARNING,
            "Item %s goes on beyond the grace period, and the worker waits for it: in a pool of threads only"
            " the item itself can end its run",
            item_id,
            fields=fields_about(item_id, None, RUNNING),
        )

    def late(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """Report that an item ended here although, by the journal, another process owns it now."""
        self._reporter.say(
            logging.WARNING,
            "Item %s (%s) %s here, but another process owns it now: the outcome there counts",
            item.id,
            item.task_name,
            outcome[0],
            fields=fields_of(item, outcome[0]),
        )

    def child_killed(self, item: WorkItem[Any], pid: int, why: str, where: str) -> None:
        """Report that an item's child process is killed, and where the child was, if that is known."""
        self._reporter.say(
            logging.WARNING,
            "Item %s (%s): its child process %d is killed, %s. %s",
            item.id,
            item.task_name,
            pid,
            why,
            f"It was here:\n{where}" if where else "It did not say where it was",
            fields=fields_of(item, RUNNING),
        )

    def logged_elsewhere(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Handle a log record of a child process."""
        self._reporter.handle(logger, record)

    def left_out(self, count: int, pid: int, most: int) -> None:
        """Report that log records of a child process were left out, because there were too many."""
        self._reporter.say(
            logging.WARNING,
            "%d log records of child process %d were left out: %d a second are handled",
            count,
            pid,
            most,
        )

    def log_error(self, what: str, error: BaseException, about: WorkItem[Any] | str | None = None) -> None:
        """Log an error that is no outcome. ``about``: the item that the line is about, or its id."""
        if about is None:
            fields = None
        elif isinstance(about, str):
            fields = fields_about(about, None)
        else:
            fields = fields_of(about, about._status)
        self._reporter.log_error(what, error, fields)

    def wait_for_receivers(self, timeout: float) -> bool:
        """Wait until receivers on other threads have been called; return False after timeout seconds."""
        return self._reporter.wait_for_receivers(timeout)
