"""Items on daemon threads, started one by one as the load requires.

A ThreadPoolExecutor does not serve: its hook at interpreter exit joins every thread without limit, and it
takes ten times the memory for each queued item.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.runner import Adopt, Perform
from flask_background.executors.base import Executor

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem


class ThreadExecutor(Executor):
    """Runs functions on at most ``capacity`` threads, and hands their awaitables to adopt."""

    def __init__(self, name: str, capacity: int, perform: Perform, adopt: Adopt) -> None:
        super().__init__(name, capacity)
        self._perform = perform
        self._adopt = adopt
        self._queue: native.SimpleQueue[WorkItem[Any] | None] = native.SimpleQueue()
        #: The items that no thread has taken yet. An entry of the queue only tells that there is one to take.
        self._waiting: dict[str, WorkItem[Any]] = {}
        self._lock = native.new_lock()
        self._threads = 0

    def put(self, item: WorkItem[Any]) -> None:
        self._waiting[item.id] = item
        self._queue.put(item)
        if self._threads < self.capacity and self._threads < len(self.queued) + len(self.running):
            self._add_thread()

    def run_here(self, item: WorkItem[Any]) -> None:
        self._perform(item, self._adopt)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        if self._waiting.pop(item.id, None) is None:
            return False
        work = partial(self._perform, item, self._adopt)
        try:
            native.start_thread(work, f"background-{self.name}-beside", runs_app_code=True)
        except RuntimeError:
            self.put(item)
            raise
        return True

    def have_thread(self) -> None:
        if not self._threads and self.queued:
            with suppress(RuntimeError):
                self._add_thread()

    def abort(self) -> None:
        """Do nothing: threads cannot be cancelled. Their items are reported, and end with the process."""

    def close(self) -> None:
        with self._lock:  # an item that is put later finds no room for a thread
            threads, self._threads, self.capacity = self._threads, 0, 0
        for _ in range(threads):
            self._queue.put(None)

    def _add_thread(self) -> None:
        with self._lock:
            if self._threads >= self.capacity:
                return
            self._threads += 1
            number = self._threads
        try:
            native.start_thread(self._work, f"background-{self.name}-{number}", runs_app_code=True)
        except RuntimeError:
            with self._lock:
                self._threads -= bool(self.capacity)
            if self._threads == 0:
                raise

    def _work(self) -> None:
        orderly = False
        try:
            self._run_items()
            orderly = True
        finally:
            if not orderly:
                self._replace_thread()

    def _run_items(self) -> None:
        get, perform, adopt, take = self._queue.get, self._perform, self._adopt, self._waiting.pop
        while (item := get()) is not None:
            if take(item.id, None) is not None:  # else it was started beside the others
                perform(item, adopt)
            item = None  # otherwise an idle thread would keep its last item alive

    def _replace_thread(self) -> None:
        """Start another thread, because this one dies of an error that should not have come this far."""
        with self._lock:
            self._threads -= bool(self.capacity)
        if self.queued:
            with suppress(RuntimeError):
                self._add_thread()
