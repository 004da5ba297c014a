"""Coroutines on one event loop, on a separate thread: thousands at a time under a limit.

asyncio is imported where it is used: the import takes as long as all of this package, and most apps have no
coroutines.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.runner import Perform, Run
from flask_background.executors.base import Executor

if TYPE_CHECKING:
    import asyncio

    from flask_background.core.item import WorkItem

# How often the event loop of a foreign Future is checked, in seconds.
_LOOK = 0.5


class AsyncioExecutor(Executor):
    """Runs coroutine functions, and awaits the awaitables that functions on other executors return."""

    coroutines_only = True

    def __init__(self, name: str, capacity: int, perform: Perform) -> None:
        super().__init__(name, capacity)
        self._perform = perform
        self._lock = native.new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # The loops that have to end. The flag is needed because an item may stop a loop, too.
        self._finished: set[asyncio.AbstractEventLoop] = set()
        # The items that wait for a place, by id. Changed only on the loop's thread.
        self._waiting: dict[str, WorkItem[Any]] = {}
        # Used only on the loop's thread.
        self._tasks: dict[asyncio.Task[None], Run] = {}

    def put(self, item: WorkItem[Any]) -> None:
        self._running_loop().call_soon_threadsafe(self._arrive, item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        loop = self._loop  # None after the end: no loop is begun for an item that must not start any more
        if loop is None or item.id not in self._waiting:
            return False
        loop.call_soon_threadsafe(self._start_beside, item)
        return True

    def adopt(self, run: Run, awaitable: Awaitable[Any]) -> None:
        """Await the awaitable of a run on this loop, and end the run."""
        self._running_loop().call_soon_threadsafe(self._start, run, awaitable)
        if self._closed:
            self.close()  # a late run, from a thread that went on: its loop ends with it

    def is_here(self) -> bool:
        if self._loop is None:
            return False
        import asyncio

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
        """Return the loop, begun if need be. Raises RuntimeError if no loop or no thread can be had."""
        with self._lock:
            if self._loop is None:
                try:
                    loop = native.new_event_loop()
                except OSError as error:  # too many open files
                    raise RuntimeError(f"no event loop can be made: {error}") from error
                try:
                    self._start_loop(loop)
                except RuntimeError:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def _start_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        def run() -> None:
            asyncio.set_event_loop(loop)
            self._run(loop)

        native.start_thread(run, f"background-{self.name}", runs_app_code=True)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while loop not in self._finished:
            try:
                loop.run_forever()  # returns also when an item stops the loop
            except (SystemExit, KeyboardInterrupt):
                pass  # raised by a task or callback that an item left on the loop: only that ends
        self._finished.discard(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _arrive(self, item: WorkItem[Any]) -> None:
        if len(self._tasks) < self.capacity:
            self._perform(item, self._start)
        else:
            self._waiting[item.id] = item

    def _start_beside(self, item: WorkItem[Any]) -> None:
        if self._waiting.pop(item.id, None) is not None:  # else it has started
            self._perform(item, self._start)

    def _start(self, run: Run, awaitable: Awaitable[Any]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        try:
            if isinstance(awaitable, asyncio.Future) and awaitable.get_loop() is not loop:
                awaitable = _of_another_loop(awaitable)
        except Exception as error:  # a Future class of the app
            run.context.run(run.fail, error)
            return
        task = loop.create_task(run.await_outcome(awaitable), context=run.context)
        self._tasks[task] = run
        task.add_done_callback(partial(self._done, awaitable))
        run.abortable(lambda: loop.call_soon_threadsafe(task.cancel))

    def _done(self, awaitable: Awaitable[Any], task: asyncio.Task[None]) -> None:
        run = self._tasks.pop(task)
        if task.cancelled():  # cancelled before its first step, so the run does not know
            import asyncio

            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            run.context.run(run.fail, asyncio.CancelledError())
        while self._waiting and len(self._tasks) < self.capacity:
            item = self._waiting.pop(next(iter(self._waiting)))
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
    """Await a Future that another event loop completes. Raises RuntimeError if that loop no longer runs."""
    import asyncio

    there, told = future.get_loop(), asyncio.Event()
    tell = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
    quiet = 0
    try:
        with suppress(RuntimeError):  # the loop is closed
            there.call_soon_threadsafe(future.add_done_callback, lambda _: tell())
        while not future.done():
            # A loop may stand still only between two runs, so it is checked twice.
            quiet = 0 if there.is_running() else quiet + 1
            if there.is_closed() or quiet > 1:
                raise RuntimeError(
                    "the function returned a Future of an event loop that does not run, and would never"
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
