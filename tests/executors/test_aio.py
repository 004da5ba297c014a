"""The event loop of an executor, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from flask_background import Status

from ..helpers import BOUND, Site, our_threads, until


def test_no_loop_after_the_end(make_site: Callable[..., Site]) -> None:
    """An item that still waits for a place when the executor is closed starts nothing, nor another loop."""
    site = make_site(BACKGROUND_EXECUTORS={"loop": {"kind": "asyncio", "limit": 1}})
    executor = site.backend.executors["loop"]
    gate, ended = threading.Event(), threading.Event()

    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass
        ended.set()

    task = site.background.task(name="shop.stubborn", executor="loop")(stubborn)
    first, second = task.enqueue(), task.enqueue()
    until(lambda: first.status is Status.RUNNING)
    loops = len(our_threads())
    site.background.stop(0)
    assert executor.start_beside(second) is False
    assert len(our_threads()) <= loops
    gate.set()
    assert ended.wait(BOUND)
    until(lambda: not [thread for thread in our_threads() if thread.name == "background-loop"])
    assert second.status is Status.INTERRUPTED
