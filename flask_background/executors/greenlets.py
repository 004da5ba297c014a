"""Items on greenlets, for processes that gevent has patched.

The greenlets run in the main thread's hub, which serves the requests, so that patched locks, drivers,
subprocesses and sockets work in an item as they do in a view. Each item has its own greenlet, like each
request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from typing import TYPE_CHECKING, Any

import gevent

from flask_background.concurrency import hub
from flask_background.concurrency.hub_loop import LoopGreenlet
from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.core.runner import Adopt, Perform, Run
from flask_background.executors.aio import AsyncioExecutor
from flask_background.executors.base import Executor

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem


class GreenletExecutor(Executor):
    """Runs functions on at most ``capacity`` greenlets, and hands their awaitables to adopt."""

    def __init__(self, name: str, capacity: int, perform: Perform, adopt: Adopt) -> None:
        super().__init__(name, capacity)
        self._perform = perform
        self._adopt = adopt
        # The items that wait for a place, by id, and the number of greenlets: changed only by the hub.
        self._waiting: dict[str, WorkItem[Any]] = {}
        self._greenlets = 0

    def put(self, item: WorkItem[Any]) -> None:
        hub.call_soon(self._arrive, item)

    def run_here(self, item: WorkItem[Any]) -> None:
        self._perform(item, self._adopt)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        if item.id not in self._waiting:
            return False
        hub.call_soon(self._start_beside, item)
        return True

    def abort(self) -> None:
        """Do nothing: functions cannot be cancelled. Their items are reported, and end with the process."""

    def close(self) -> None:
        """Do nothing: a greenlet ends with its item."""

    def _arrive(self, item: WorkItem[Any]) -> None:
        self._waiting[item.id] = item
        self._start()

    def _start(self) -> None:
        while self._waiting and self._greenlets < self.capacity:
            self._greenlets += 1
            # Otherwise it would run in the context of a request.
            item = self._waiting.pop(next(iter(self._waiting)))
            gevent.spawn(Context().run, self._run, item)

    def _start_beside(self, item: WorkItem[Any]) -> None:
        if self._waiting.pop(item.id, None) is not None:  # else it has started
            self._greenlets += 1
            Context().run(gevent.spawn, self._run, item)

    @uninterruptible
    def _run(self, item: WorkItem[Any]) -> None:
        try:
            self._perform(item, self._adopt)
        finally:
            self._greenlets -= 1
            self._start()


class HubAsyncioExecutor(AsyncioExecutor):
    """Runs coroutine functions on an event loop that one greenlet runs."""

    # The loop and its sockets belong to the main thread, so every use of the loop happens there.

    def put(self, item: WorkItem[Any]) -> None:
        self._have_loop()
        hub.call_soon(super().put, item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        if item.id not in self._waiting:
            return False
        hub.call_soon(super().start_beside, item)
        return True

    def adopt(self, run: Run, awaitable: Awaitable[Any]) -> None:
        self._have_loop()
        hub.call_soon(super().adopt, run, awaitable)

    def _have_loop(self) -> None:
        """Begin the loop, for which a native thread waits: only its caller can act on the RuntimeError."""
        if self._loop is None:
            hub.run(self._begin_loop)

    def _begin_loop(self) -> None:
        self._running_loop()

    def _start_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        LoopGreenlet.spawn(Context().run, self._run, loop)


#: The code on the main thread's stack while a greenlet runs an item.
CODES = frozenset({GreenletExecutor._run.__code__, HubAsyncioExecutor._run.__code__})
