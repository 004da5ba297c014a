"""Cancellation: the source asks (write side), the token tells (read side)."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from flask_background.concurrency import callbacks, native
from flask_background.concurrency.durations import bounded
from flask_background.errors import ItemCancelledError

T = TypeVar("T")


class CancelReason(enum.Enum):
    """Why a token fired."""

    SHUTDOWN = "shutdown"
    """The host stops; ``remaining`` says how long the item may go on."""
    TIMEOUT = "timeout"
    """The item's own ``timeout`` has passed."""
    REQUESTED = "requested"
    """Somebody called ``item.cancel()``."""


class CancellationToken:
    """Tells an item that it should end, why, and how long it has. Fires once; the first reason stays."""

    __slots__ = ("_callbacks", "_deadline", "_lock", "_reason", "_wakers")

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._reason: CancelReason | None = None
        self._deadline: float | None = None
        # The app's, which are called on threads of their own, and those of the package, which are quick.
        self._callbacks: list[Callable[[], object]] = []
        self._wakers: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the token has fired."""
        return self._reason is not None

    @property
    def reason(self) -> CancelReason | None:
        """Why it fired; None while it has not."""
        return self._reason

    @property
    def remaining(self) -> float | None:
        """Seconds until the item's time is up, never below 0.0; None when nothing limits it."""
        deadline = self._deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def raise_if_cancelled(self) -> None:
        """Raise ItemCancelledError if the token has fired."""
        if self._reason is not None:
            raise ItemCancelledError(f"the item was asked to end ({self._reason.value})", self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the token; says whether it has fired."""
        if self._reason is not None:
            return True
        latch = native.Latch()
        forget = self._call_when_fired(latch.open)
        try:
            return latch.wait(timeout)
        finally:
            forget()

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same for coroutines: waits without holding up the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        fired = asyncio.Event()
        forget = self._call_when_fired(lambda: loop.call_soon_threadsafe(fired.set))
        try:
            async with asyncio.timeout(None if timeout is None else bounded(timeout)):
                await fired.wait()
        except TimeoutError:
            pass
        finally:
            forget()
        return self.cancelled

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call callback once when the token fires, at once if it has; returns what takes that back.

        It is called on a thread of its own, where it holds up nobody, outside the item's context; what it
        raises is logged. If the token has fired already it is called here, and what it raises is raised here.
        """
        return self._call(callback, self._callbacks)

    def _call_when_fired(self, waker: Callable[[], object]) -> Callable[[], None]:
        """The same for what is quick and does not raise: it is called by whoever fires the token."""
        return self._call(waker, self._wakers)

    def _call(self, callback: Callable[[], object], among: list[Callable[[], object]]) -> Callable[[], None]:
        with self._lock:
            fired = self._reason is not None
            if not fired:
                among.append(callback)
        if fired:
            callback()
        return partial(self._forget, callback, among)

    def _forget(self, callback: Callable[[], object], among: list[Callable[[], object]]) -> None:
        with self._lock:
            for index, other in enumerate(among):
                if other is callback:  # not ==, which may be the app's to say, and may raise
                    del among[index]
                    return

    def __repr__(self) -> str:
        return f"<CancellationToken {self._reason.value if self._reason else 'not cancelled'}>"


class CancellationSource:
    """Makes one token and fires it. ``failed`` is called with what the token's callbacks raise."""

    __slots__ = ("_failed", "token")

    def __init__(self, failed: callbacks.Failed = callbacks.report) -> None:
        self.token = CancellationToken()
        self._failed = failed

    def limit(self, deadline: float) -> None:
        """Say by when (``time.monotonic()``) the item has to end; the earliest deadline stays."""
        token = self.token
        with token._lock:
            if token._deadline is None or deadline < token._deadline:
                token._deadline = deadline

    def fire(self, reason: CancelReason) -> bool:
        """Fire the token; False if it had fired. Whoever waits is woken, and its callbacks are called soon.

        Quick, whatever the callbacks are, and raises nothing.
        """
        token = self.token
        with token._lock:
            if token._reason is not None:
                return False
            token._reason = reason
            wakers, callbacks_ = _taken_from(token._wakers), _taken_from(token._callbacks)
        for waker in wakers:
            try:
                waker()
            except Exception:  # an event loop that has been closed: nobody waits on it
                pass
        for callback in callbacks_:
            callbacks.threads.call(callback, self._failed)
        return True


def _taken_from(these: list[T]) -> list[T]:
    taken = these[:]
    these.clear()
    return taken
