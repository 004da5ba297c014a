"""Cancellation: a source requests it (write side), and a token reports it (read side)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from flask_background.concurrency import callbacks, native
from flask_background.concurrency.clock import CLOCK, Clock
from flask_background.concurrency.durations import bounded
from flask_background.errors import ItemCancelledError

T = TypeVar("T")


class CancelReason(enum.Enum):
    """The reasons for which a token fires."""

    SHUTDOWN = "shutdown"
    """The host stops; ``remaining`` says how long the item may go on."""
    TIMEOUT = "timeout"
    """The item's own ``timeout`` has passed."""
    REQUESTED = "requested"
    """Somebody called ``item.cancel()``."""


class CancellationToken:
    """Tells an item that it should end, why, and how long it has. Fires once; the first reason stays."""

    __slots__ = ("_callbacks", "_clock", "_deadline", "_lock", "_reason", "_wakers")

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._lock = native.new_lock()
        self._clock = clock
        self._reason: CancelReason | None = None
        self._deadline: float | None = None
        # Callbacks of the app, which are called on other threads, and callbacks of the package, which are
        # quick.
        self._callbacks: list[Callable[[], object]] = []
        self._wakers: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the token has fired."""
        return self._reason is not None

    @property
    def reason(self) -> CancelReason | None:
        """The reason for which the token fired; None before that."""
        return self._reason

    @property
    def remaining(self) -> float | None:
        """The seconds until the item's time is up, never below 0.0; None if nothing limits the item."""
        deadline = self._deadline
        return None if deadline is None else max(0.0, deadline - self._clock.monotonic())

    def raise_if_cancelled(self) -> None:
        """Raise ItemCancelledError if the token has fired."""
        if self._reason is not None:
            raise ItemCancelledError(f"the item was asked to end ({self._reason.value})", self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: no limit) for the token; return whether it has fired."""
        if self._reason is not None:
            return True
        latch = native.Latch()
        forget = self._call_when_fired(latch.open)
        try:
            return latch.wait(timeout)
        finally:
            forget()

    async def wait_async(self, timeout: float | None = None) -> bool:
        """Wait like ``wait``, in a coroutine, without blocking the event loop."""
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
        """Call callback once when the token fires; return a function that withdraws the callback.

        The callback runs on a separate thread and outside the item's context; its error is logged. If the
        token has already fired, the callback is called here and now, and its error is raised here.
        """
        return self._call(callback, self._callbacks)

    def _call_when_fired(self, waker: Callable[[], object]) -> Callable[[], None]:
        """Call waker, which is quick and raises nothing, on the thread that fires the token."""
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
                if other is callback:  # not ==, which the app may define, and which may raise
                    del among[index]
                    return

    def __repr__(self) -> str:
        return f"<CancellationToken {self._reason.value if self._reason else 'not cancelled'}>"


class CancellationSource:
    """The write side of cancellation: makes one token and fires it.

    ``failed`` is called with the errors of the token's callbacks; ``clock`` is the clock of deadlines.
    """

    __slots__ = ("_failed", "token")

    def __init__(self, failed: callbacks.Failed = callbacks.report, clock: Clock = CLOCK) -> None:
        self.token = CancellationToken(clock)
        self._failed = failed

    def limit(self, deadline: float) -> None:
        """Set the time (the clock's ``monotonic()``) by which the item has to end; the earliest one stays."""
        token = self.token
        with token._lock:
            if token._deadline is None or deadline < token._deadline:
                token._deadline = deadline

    def fire(self, reason: CancelReason) -> bool:
        """Fire the token; return False if it had fired. Waiters wake at once, and callbacks are called soon.

        This method is quick, whatever the callbacks do, and raises nothing.
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
            except Exception:  # a closed event loop: no coroutine waits on it
                pass
        for callback in callbacks_:
            callbacks.threads.call(callback, self._failed)
        return True


def _taken_from(these: list[T]) -> list[T]:
    taken = these[:]
    these.clear()
    return taken
