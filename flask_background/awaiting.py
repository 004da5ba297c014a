"""Awaits on the caller's thread what a run has left to be awaited, for who runs one item after the other."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runner import Run


def await_here(run: Run, awaitable: Awaitable[Any]) -> None:
    """Await what a function has returned, or a coroutine function, on an event loop of its own."""
    import asyncio

    async def await_it() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        run.abortable(lambda: loop.call_soon_threadsafe(task.cancel))
        await run.await_outcome(awaitable)

    with asyncio.Runner() as runner:
        runner.run(await_it(), context=run.context)
