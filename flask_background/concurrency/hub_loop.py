"""An asyncio event loop in a greenlet, which waits in gevent's hub.

Coroutines on such a loop share the main thread with the views, so patched locks (those of ``logging``, for
example), sockets, threads and subprocesses work in them as in a view.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import gevent
from gevent.selectors import GeventSelector


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for a LoopGreenlet."""
    return asyncio.SelectorEventLoop(_Selector())


class _Selector(GeventSelector):
    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            gevent.sleep(0)  # otherwise callbacks that are always ready would block all other greenlets
        return super().select(timeout)


class LoopGreenlet(gevent.Greenlet):  # type: ignore[type-arg]
    """A greenlet that may run an event loop, hidden from the other greenlets on its thread.

    All greenlets of a thread share one running loop and one pair of hooks for asynchronous generators. So
    this greenlet sets its own when the hub switches to it, and restores the others when the hub switches
    away.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inside: tuple[Any, Any] = (None, (None, None))
        self.outside = self.inside

    def run(self) -> Any:
        try:
            return super().run()
        finally:
            self.switch_out()

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        self.outside = _exchange(self.inside)
        return super().switch(*args, **kwargs)

    def throw(self, *args: Any) -> Any:
        self.outside = _exchange(self.inside)
        return super().throw(*args)

    def switch_out(self) -> None:
        """Restore the thread's running loop; the hub calls this method when the greenlet waits."""
        self.inside = _exchange(self.outside)


def _exchange(state: tuple[Any, Any]) -> tuple[Any, Any]:
    """Set the running loop and hooks of a thread, and return the former ones."""
    # asyncio exports these two functions for the authors of event loops.
    before = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    asyncio._set_running_loop(state[0])
    sys.set_asyncgen_hooks(*state[1])
    return before
