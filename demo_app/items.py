"""Items as pages show them: the same from whichever worker answers."""

from __future__ import annotations

from typing import Any

from flask_background import CancelReason, Status, WorkItem, current_item

LABELS = {
    Status.QUEUED: "Waiting",
    Status.RUNNING: "Running",
    Status.SUCCEEDED: "Done",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
    Status.INTERRUPTED: "Interrupted",
}

Shown = dict[str, Any]  # an item as pages and JSON see it


def describe(item: WorkItem[Any]) -> Shown:
    """Say how an item stands, in JSON values. Who runs it, and its token, are on its record."""
    status, progress = item.status, item.progress
    # A task of this demo that returns a text says why a visitor does not get what was asked for. That is no
    # failure of ours, so it is not raised: the log has no traceback of it.
    result = item.result(1) if status is Status.SUCCEEDED else None
    refusal = result if isinstance(result, str) else None
    return {
        "id": item.id,
        "task": item.task_name,
        "status": "refused" if refusal else status.value,
        "label": "Not taken" if refusal else LABELS[status],
        "final": status.is_final,
        "enqueued": item.enqueued_at.timestamp(),
        "took": seconds_taken(item),
        "attempt": item.attempt,
        "progress": progress and progress._asdict(),
        "message": message(item),
        "error": refusal or failure(status, progress and progress.message),
        "pid": None,
        "pids": [],
        "token": {"cancelled": False, "reason": None, "remaining": None},
    }


def message(item: WorkItem[Any]) -> str:
    """Say what an item is doing."""
    if item.status is Status.QUEUED:
        return "Waiting for its next run" if item.attempt else "Waiting for its turn"
    return (item.progress and item.progress.message) or ""


def seconds_taken(item: WorkItem[Any]) -> float | None:
    """How long an item's last run took, once it has ended."""
    if item.started_at is None or item.finished_at is None:
        return None
    return (item.finished_at - item.started_at).total_seconds()


def failure(status: Status, step: str | None) -> str | None:
    """Say to a visitor why an item did not succeed. What was raised may tell of paths and hosts."""
    match status:
        case Status.CANCELLED:
            return "It was cancelled."
        case Status.INTERRUPTED:
            return "The server stopped before it was done. Please try again."
        case Status.FAILED:
            return f"Something went wrong here{f', at the step: {step}' if step else ''}. Please try again."
        case _:
            return None


def end_if_asked(needed: float) -> None:
    """End the current item if its end was requested, or if a stop leaves it less time than it needs.

    A stop alone is no reason: an item that takes another second is better finished in the grace period.
    """
    token = current_item.token
    enough = token.remaining is None or token.remaining >= needed
    if not (token.reason is CancelReason.SHUTDOWN and enough):
        token.raise_if_cancelled()
