"""Work after the response, for Flask: enqueued in a view, run in the process, waited for when it stops."""

from .extension import Background
from .globals import current_item
from .item import WorkItem
from .state import RequestState
from .status import Status
from .task import Task
from .token import CancellationToken, CancelReason

__all__ = [
    "Background",
    "CancelReason",
    "CancellationToken",
    "RequestState",
    "Status",
    "Task",
    "WorkItem",
    "current_item",
]
