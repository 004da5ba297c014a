"""``current_item``, a proxy to the work item that the running code belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from werkzeug.local import LocalProxy

from flask_background.core.item import WorkItem, current_item_var

_UNBOUND = """\
Working outside of a work item.

current_item stands for the work item that the running code belongs to. It can be used in a function that is
decorated with @background.task or was given to background.enqueue(), and in the functions that it calls.

To use the same code elsewhere, call the task as an ordinary function, task(...), which binds current_item
too, or test it: `if current_item:` is false outside of an item."""

if TYPE_CHECKING:
    current_item: WorkItem[Any]
else:
    current_item = LocalProxy(current_item_var, unbound_message=_UNBOUND)
