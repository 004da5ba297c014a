"""Coroutines on one event loop, on a thread of its own: thousands at a time under a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.runner import PendingRun, Perform
from flask_background.executors.base import Executor

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem


class AsyncioExecutor(Executor):
    """Runs coroutine functions, and awaits what functions on other executors return to be awaited."""

    coroutines_only = True

    def __init__(self, name: str, capacity: int, perform: Perform) -> None:
        super().__init__(name, capacity)
        self._perform = perform
        self._lock = native.new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # Touched on the loop's thread alone.
        self._waiting: deque[WorkItem[Any]] = deque()
        self._tasks: dict[asyncio.Task[None], PendingRun] = {}

    def put(self, item: WorkItem[Any]) -> None:
        self._running_loop().call_soon_threadsafe(self._arrive, item)

    def adopt(self, run: PendingRun, awaitable: Awaitable[Any]) -> None:
        """Await what a run has begun, on this loop, and end the run as that ends."""
        self._running_loop().call_soon_threadsafe(self._start, run, awaitable)
        if self._closed:
            self.close()  # a late one, from a thread that went on: its loop ends with it

    def is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def abort(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._cancel_all)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._stop_when_done, loop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = native.new_event_loop()
                try:
                    self._start_loop(loop)
                except RuntimeError:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def _start_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        def run() -> None:
            asyncio.set_event_loop(loop)
            self._run(loop)

        native.start_thread(run, f"background-{self.name}")

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = False
        while not ended:
            try:
                loop.run_forever()
                ended = True
            except (SystemExit, KeyboardInterrupt):
                pass  # from a task or callback that an item left on the loop: it ends that alone
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _arrive(self, item: WorkItem[Any]) -> None:
        if len(self._tasks) < self.capacity:
            self._perform(item._keeper, item, self._start)
        else:
            self._waiting.append(item)

    def _start(self, run: PendingRun, awaitable: Awaitable[Any]) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(awaitable, asyncio.Future) and awaitable.get_loop() is not loop:
            there = asyncio.run_coroutine_threadsafe(_result_of(awaitable), awaitable.get_loop())
            awaitable = asyncio.wrap_future(there, loop=loop)
        task = loop.create_task(run.await_outcome(awaitable), context=run.context)
        self._tasks[task] = run
        task.add_done_callback(partial(self._done, awaitable))
        run.abortable(lambda: loop.call_soon_threadsafe(task.cancel))

    def _done(self, awaitable: Awaitable[Any], task: asyncio.Task[None]) -> None:
        run = self._tasks.pop(task)
        if task.cancelled():  # before its first step, so the run does not know yet
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            run.context.run(run.fail, asyncio.CancelledError())
        while self._waiting and len(self._tasks) < self.capacity:
            item = self._waiting.popleft()
            self._perform(item._keeper, item, self._start)

    def _cancel_all(self) -> None:
        for run in tuple(self._tasks.values()):
            run.cancel_awaited()

    def _stop_when_done(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._tasks:
            loop.call_later(0.05, self._stop_when_done, loop)
        else:
            loop.stop()


async def _result_of(future: asyncio.Future[Any]) -> Any:
    return await future
