"""``current_item``: the item that the code runs for, at any depth of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from werkzeug.local import LocalProxy

from flask_background.core.item import WorkItem, current_item_var

_UNBOUND = """\
Working outside of a work item.

current_item stands for the item that the code runs for, so it is there only while a task runs: in a function
decorated with @background.task, in what that calls, and in what was given to background.enqueue().

To use the same code elsewhere, call the task as an ordinary function, task(...), which binds current_item
too, or test for it: `if current_item:` is false outside of an item."""

if TYPE_CHECKING:
    current_item: WorkItem[Any]
else:
    current_item = LocalProxy(current_item_var, unbound_message=_UNBOUND)
