"""The fields of log lines about items, given as ``extra``: attributes of the log record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.core.status import Status


def fields_of(item: WorkItem[Any], status: Status) -> dict[str, object]:
    """Return the fields of a line about an item that has this status now.

    ``wait``: from the time at which the last run was due until that run began, or until now; ``duration``:
    how long that run has taken; both in seconds, and None if there is no such time.
    """
    run, now = item._attempt, item._host.clock.time()
    started = None if run is None else run.started
    ended = now if run is None or run.finished is None else run.finished
    return fields_about(
        item.id,
        item.task_name,
        status,
        attempt=0 if run is None or started is None else run.number,
        wait=max(0.0, (now if started is None else started) - item._due),
        duration=None if started is None else max(0.0, ended - started),
        description=item.description,
    )


def fields_about(
    item_id: str | None, task: str | None, status: Status | None = None, **known: object
) -> dict[str, object]:
    """Return the fields of a line about an item whose object is in another process; None: not known here."""
    unknown = dict.fromkeys(("attempt", "wait", "duration", "description"))
    return {"item_id": item_id, "task": task, "status": status and str(status), **unknown, **known}
