"""Blinker signals for what happens to items. The sender is the app; a receiver's error is logged.

Receivers run where the event happens. ``item_enqueued`` and ``item_refused`` are sent in the view;
``item_started``, ``item_retried`` and ``item_finished`` on the item's thread, outside of its app context
(for durable items on the journal's thread); ``stopping`` and ``stopped`` on the thread that watches the host,
and ``items_recovered`` on the thread that has found the items.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: A Background was initialised for an app. ``background``: the Background.
initialized = _signals.signal("initialized")
#: An item was accepted. ``item``: the WorkItem.
item_enqueued = _signals.signal("item-enqueued")
#: An item begins to run. ``item``: the WorkItem.
item_started = _signals.signal("item-started")
#: An item has its final status. ``item``: the WorkItem. Sent again if an "interrupted" status is corrected.
#: An item that is handed over, or given back to the journal, has its end in the process that runs it.
item_finished = _signals.signal("item-finished")
#: A run failed, and another run follows. ``item``, ``error``: the exception, ``delay``: seconds until then.
item_retried = _signals.signal("item-retried")
#: An item was not accepted. ``task_name``: str, ``error``: the EnqueueError raised in the view.
item_refused = _signals.signal("item-refused")
#: Items of a process that died are queued again. ``count``: how many.
items_recovered = _signals.signal("items-recovered")
#: The tokens of the app's items fire. ``grace``: how long the items may still run, in seconds.
stopping = _signals.signal("stopping")
#: The app accepts no more items. ``unfinished``: a list of the items that had not ended.
stopped = _signals.signal("stopped")
#: A child process is replaced, and ends. Sent in the child, which is killed a second later.
child_ending = _signals.signal("child-ending")
