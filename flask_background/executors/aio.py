"""Coroutines on one event loop, on a thread of its own: thousands at a time under a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.runner import Perform, Run
from flask_background.executors.base import Executor

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem

# How often the loop of a Future that is not ours is looked at, in seconds.
_LOOK = 0.5


class AsyncioExecutor(Executor):
    """Runs coroutine functions, and awaits what functions on other executors return to be awaited."""

    coroutines_only = True

    def __init__(self, name: str, capacity: int, perform: Perform) -> None:
        super().__init__(name, capacity)
        self._perform = perform
        self._lock = native.new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # The loops that are to end: an item may stop a loop, too.
        self._finished: set[asyncio.AbstractEventLoop] = set()
        # Touched on the loop's thread alone.
        self._waiting: deque[WorkItem[Any]] = deque()
        self._tasks: dict[asyncio.Task[None], Run] = {}

    def put(self, item: WorkItem[Any]) -> None:
        self._running_loop().call_soon_threadsafe(self._arrive, item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        self._running_loop().call_soon_threadsafe(self._start_beside, item)
        return True

    def adopt(self, run: Run, awaitable: Awaitable[Any]) -> None:
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

        native.start_thread(run, f"background-{self.name}", runs_app_code=True)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while loop not in self._finished:
            try:
                loop.run_forever()  # returns, too, when an item stops the loop
            except (SystemExit, KeyboardInterrupt):
                pass  # from a task or callback that an item left on the loop: it ends that alone
        self._finished.discard(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _arrive(self, item: WorkItem[Any]) -> None:
        if len(self._tasks) < self.capacity:
            self._perform(item, self._start)
        else:
            self._waiting.append(item)

    def _start_beside(self, item: WorkItem[Any]) -> None:
        try:
            self._waiting.remove(item)
        except ValueError:  # it has started
            return
        self._perform(item, self._start)

    def _start(self, run: Run, awaitable: Awaitable[Any]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if isinstance(awaitable, asyncio.Future) and awaitable.get_loop() is not loop:
                awaitable = _of_another_loop(awaitable)
        except Exception as error:  # a Future of the app's own kind
            run.context.run(run.fail, error)
            return
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
            self._perform(item, self._start)

    def _cancel_all(self) -> None:
        for run in tuple(self._tasks.values()):
            run.cancel_awaited()

    def _stop_when_done(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._tasks:
            loop.call_later(0.05, self._stop_when_done, loop)
        else:
            self._finished.add(loop)
            loop.stop()


async def _of_another_loop(future: asyncio.Future[Any]) -> Any:
    """Await a Future that another event loop finishes. Raises RuntimeError if that loop runs no more."""
    there, told = future.get_loop(), asyncio.Event()
    tell = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
    quiet = 0
    try:
        with suppress(RuntimeError):  # the loop is closed
            there.call_soon_threadsafe(future.add_done_callback, lambda _: tell())
        while not future.done():
            # A loop that stands still may only be between two runs, so it is looked at twice.
            quiet = 0 if there.is_running() else quiet + 1
            if there.is_closed() or quiet > 1:
                raise RuntimeError(
                    "the function returned a Future of an event loop that does not run, so it would never"
                    " end: return a coroutine, or the result"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await told.wait()
    except asyncio.CancelledError:
        with suppress(RuntimeError):
            there.call_soon_threadsafe(future.cancel)
        raise
    return future.result()
