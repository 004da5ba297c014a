"""Blinker signals. The sender is the app; a receiver's error is logged and hurts nobody else.

Receivers run where the event happens: in the view for ``item_enqueued`` and ``item_refused``, on the
item's thread (outside of its app context) for ``item_started``, ``item_retried`` and ``item_finished`` (of a
durable item: on the journal's), on the thread that watches the host for ``stopping`` and ``stopped``.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: An item was accepted. ``item``: the WorkItem.
item_enqueued = _signals.signal("item-enqueued")
#: An item begins to run. ``item``.
item_started = _signals.signal("item-started")
#: An item has its final status. ``item``. Sent once more if an interrupted item's record is corrected.
item_finished = _signals.signal("item-finished")
#: A run failed, and another one follows. ``item``, ``error``: the exception, ``delay``: seconds until then.
item_retried = _signals.signal("item-retried")
#: An item was not accepted. ``task_name``: str, ``error``: the EnqueueError that the view gets.
item_refused = _signals.signal("item-refused")
#: The app's items are asked to end. ``grace``: seconds that they have.
stopping = _signals.signal("stopping")
#: The app accepts no more items. ``unfinished``: a list of the items that had not ended.
stopped = _signals.signal("stopped")
