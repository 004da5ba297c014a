"""A filter for the app's log handlers, which puts the item on every line that is logged inside one."""

from __future__ import annotations

import logging

from flask_background.core.item import current_item_var


class ItemFilter(logging.Filter):
    """Puts ``item_id``, ``task`` and ``attempt`` on each log record, so that a format may name them.

    Inside an item they are its id, the name of its task and the number of the run; outside ``missing``, "-"
    by default. The package's own lines about an item have them already. Add the filter to a handler: the
    filter of a logger does not see the lines of the loggers below it.
    """

    def __init__(self, missing: object = "-") -> None:
        super().__init__()
        self._missing = missing

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes that the record lacks; every record passes."""
        item = current_item_var.get(None)
        run = None if item is None else item._attempt
        found = {
            "item_id": None if item is None else item.id,
            "task": None if item is None else item.task_name,
            "attempt": None if run is None else run.number,
        }
        for name, value in found.items():
            if getattr(record, name, None) is None:
                setattr(record, name, self._missing if value is None else value)
        return True
