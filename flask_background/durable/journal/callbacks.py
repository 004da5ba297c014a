"""The thread that tells: whoever wants to know that a step is written is called there, in the steps' order.

Not on the writer's thread, for what is called may want something written, and wait for that.
"""

from __future__ import annotations

import traceback

from flask_background.concurrency import native
from flask_background.durable.journal.group_commit import Order


class Teller:
    """Calls one after the other, on a thread that there is as long as it is wanted."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._orders: native.SimpleQueue[Order | None] = native.SimpleQueue()
        self._has_thread = False

    def tell(self, order: Order) -> None:
        """Call ``order.then``; ``start`` has to be called after this."""
        self._orders.put(order)

    def start(self) -> bool:
        """Have a thread, if there is something to tell; False if there can be none now."""
        with self._lock:
            if not self._has_thread and not self._orders.empty():
                try:
                    native.start_thread(self._run, "background-journal-told")
                except RuntimeError:  # so many threads there may not be
                    return False
                self._has_thread = True
        return True

    def end(self) -> None:
        """The thread is to end once all is told."""
        with self._lock:
            if self._has_thread:
                self._orders.put(None)

    def _run(self) -> None:
        while True:
            order = self._orders.get()
            if order is not None:
                _call(order)
                order = None  # or an idle thread would keep it
                continue
            with self._lock:
                if self._orders.empty():  # else there is a writer again
                    self._has_thread = False
                    return


def _call(order: Order) -> None:
    try:
        if order.error is not None:
            raise order.error
        if order.then is not None:
            order.then(order.value)
    except BaseException:  # whatever it is, there is more to tell
        traceback.print_exc()
