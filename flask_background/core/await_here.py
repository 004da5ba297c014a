"""Awaiting the result of a run on the caller's own thread."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.core.runner import Run


def await_here(run: Run, awaitable: Awaitable[Any]) -> None:
    """Await what the run's function returned on a private event loop, and end the run."""
    if native.is_patched() and not native.is_own_thread():
        from flask_background.concurrency.hub_loop import LoopGreenlet  # imports gevent

        LoopGreenlet.spawn(_run_loop, run, awaitable).join()
    else:
        _run_loop(run, awaitable)


def _run_loop(run: Run, awaitable: Awaitable[Any]) -> None:
    import asyncio

    async def await_it() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        run.abortable(lambda: loop.call_soon_threadsafe(task.cancel))
        await run.await_outcome(awaitable)

    with asyncio.Runner(loop_factory=native.new_event_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(await_it(), context=run.context)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt):
                pass  # raised by another task or a callback: only that task ends
