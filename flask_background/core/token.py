"""Cancellation: the source asks (write side), the token tells (read side)."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable

from flask_background.concurrency import native
from flask_background.errors import ItemCancelledError


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

    __slots__ = ("_callbacks", "_deadline", "_lock", "_reason")

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._reason: CancelReason | None = None
        self._deadline: float | None = None
        self._callbacks: list[Callable[[], object]] = []

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
        gate = native.Latch()
        forget = self.on_cancel(gate.open)
        try:
            return gate.wait(timeout)
        finally:
            forget()

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same for coroutines: waits without holding up the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        fired = asyncio.Event()
        forget = self.on_cancel(lambda: loop.call_soon_threadsafe(fired.set))
        try:
            async with asyncio.timeout(timeout):
                await fired.wait()
        except TimeoutError:
            pass
        finally:
            forget()
        return self.cancelled

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call callback once when the token fires, at once if it has; returns what takes that back.

        It runs on the thread that cancels, so it should be quick; its errors are logged.
        """
        with self._lock:
            fired = self._reason is not None
            if not fired:
                self._callbacks.append(callback)
        if fired:
            callback()
        return lambda: self._forget(callback)

    def _forget(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def __repr__(self) -> str:
        return f"<CancellationToken {self._reason.value if self._reason else 'not cancelled'}>"


class CancellationSource:
    """Makes one token and fires it."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token = CancellationToken()

    def limit(self, deadline: float) -> None:
        """Say by when (``time.monotonic()``) the item has to end; the earliest deadline stays."""
        token = self.token
        with token._lock:
            if token._deadline is None or deadline < token._deadline:
                token._deadline = deadline

    def fire(self, reason: CancelReason) -> list[Callable[[], object]]:
        """Fire the token, unless it has; returns the callbacks, which are the caller's to call."""
        token = self.token
        with token._lock:
            if token._reason is not None:
                return []
            token._reason = reason
            callbacks, token._callbacks = token._callbacks, []
        return callbacks


def call_back(
    callbacks: Iterable[Callable[[], object]], log_error: Callable[[str, BaseException], None]
) -> None:
    """Call the callbacks of a token that has fired. What one of them raises is logged."""
    for callback in callbacks:
        try:
            callback()
        except BaseException as error:
            log_error("A token's callback failed", error)
