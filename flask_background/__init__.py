"""Work after the response, for Flask: enqueued in a view, run in the process, waited for when it stops.

PYTEST_DONT_REWRITE: pytest rewrites packages with a plugin, and would warn if this one is imported before.
"""

from flask_background.core.item import WorkItem
from flask_background.core.request_state import RequestState
from flask_background.core.status import Progress, Status
from flask_background.core.token import CancellationToken, CancelReason
from flask_background.extension import Background
from flask_background.globals import current_item
from flask_background.task import Call, Task

__version__ = "0.1.0"

__all__ = [
    "Background",
    "Call",
    "CancelReason",
    "CancellationToken",
    "Progress",
    "RequestState",
    "Status",
    "Task",
    "WorkItem",
    "__version__",
    "current_item",
]
