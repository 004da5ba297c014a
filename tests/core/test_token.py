"""The token tells that, why and by when; the source fires it, once."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import ItemCancelledError

from ..helpers import BOUND, until


@pytest.fixture
def source() -> CancellationSource:
    """A source that has not fired."""
    return CancellationSource()


def test_before_it_fires(source: CancellationSource) -> None:
    """A new token asks for nothing and limits nothing."""
    token = source.token
    assert not token.cancelled
    assert token.reason is None
    assert token.remaining is None
    token.raise_if_cancelled()
    assert repr(token) == "<CancellationToken not cancelled>"


@pytest.mark.parametrize("reason", CancelReason)
def test_fires(source: CancellationSource, reason: CancelReason) -> None:
    """A fired token says so, why, and raises an error that carries it."""
    source.fire(reason)
    assert source.token.cancelled
    assert source.token.reason is reason
    with pytest.raises(ItemCancelledError, match=reason.value) as caught:
        source.token.raise_if_cancelled()
    assert caught.value.token is source.token
    assert reason.value in repr(source.token)


def test_first_reason_stays(source: CancellationSource) -> None:
    """It fires once: later reasons change nothing and call nobody."""
    source.token.on_cancel(lambda: None)
    assert len(source.fire(CancelReason.TIMEOUT)) == 1
    assert source.fire(CancelReason.SHUTDOWN) == []
    assert source.token.reason is CancelReason.TIMEOUT


def test_fires_once_among_threads(source: CancellationSource) -> None:
    """Of many who fire at once, one gets the callbacks."""
    source.token.on_cancel(lambda: None)
    barrier = threading.Barrier(8)
    got = []

    def fire() -> None:
        barrier.wait(BOUND)
        got.append(len(source.fire(CancelReason.REQUESTED)))

    threads = [threading.Thread(target=fire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert sorted(got) == [0] * 7 + [1]


def test_remaining(source: CancellationSource) -> None:
    """The earliest deadline stays, it comes nearer, and is never below zero."""
    now = time.monotonic()
    source.limit(now + 100)
    source.limit(now + 50)
    source.limit(now + 200)
    first = source.token.remaining
    assert first is not None
    assert 40 < first <= 50
    until(lambda: (source.token.remaining or 0) < first)
    source.limit(now - 1)
    assert source.token.remaining == 0.0


def test_on_cancel(source: CancellationSource) -> None:
    """A callback is the firing caller's to call; what came too late is called at once."""
    called = []
    source.token.on_cancel(lambda: called.append("before"))
    for callback in source.fire(CancelReason.REQUESTED):
        callback()
    assert called == ["before"]
    source.token.on_cancel(lambda: called.append("after"))
    assert called == ["before", "after"]


def test_on_cancel_taken_back(source: CancellationSource) -> None:
    """A callback that was taken back is not called; taking back again, or too late, does no harm."""
    called = []
    forget = source.token.on_cancel(lambda: called.append("forgotten"))
    keep = source.token.on_cancel(lambda: called.append("kept"))
    forget()
    forget()
    for callback in source.fire(CancelReason.REQUESTED):
        callback()
    keep()
    assert called == ["kept"]


@pytest.mark.parametrize("timeout", [0.02, 0.0, -1.0])
def test_wait_ends(source: CancellationSource, timeout: float) -> None:
    """A wait ends in time if nothing fires, and leaves nothing behind in the token."""
    began = time.monotonic()
    assert not source.token.wait(timeout)
    assert max(0.0, timeout) <= time.monotonic() - began < BOUND
    assert source.fire(CancelReason.REQUESTED) == []


def test_wait_wakes_all(source: CancellationSource) -> None:
    """All who wait are woken, also those who wait without limit; a fired token lets everybody pass."""
    woken = []
    waiters = [
        threading.Thread(target=lambda t=timeout: woken.append(source.token.wait(t)), daemon=True)
        for timeout in (None, None, BOUND)
    ]
    for waiter in waiters:
        waiter.start()
    until(lambda: len(source.token._callbacks) == 3)
    for callback in source.fire(CancelReason.REQUESTED):
        callback()
    for waiter in waiters:
        waiter.join(BOUND)
    assert woken == [True] * 3
    assert source.token.wait(0)
    assert source.token.wait()


def test_wait_async(source: CancellationSource) -> None:
    """A coroutine waits without holding up its loop, and is woken from another thread."""

    async def main() -> bool:
        waiting = asyncio.create_task(source.token.wait_async())
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(lambda: [callback() for callback in source.fire(CancelReason.SHUTDOWN)])
        return await asyncio.wait_for(waiting, BOUND)

    assert asyncio.run(main())
    assert asyncio.run(source.token.wait_async(0))


@pytest.mark.parametrize("timeout", [0.02, 0.0, -1.0])
def test_wait_async_ends(source: CancellationSource, timeout: float) -> None:
    """A coroutine's wait ends in time too, and leaves nothing behind."""
    assert not asyncio.run(source.token.wait_async(timeout))
    assert source.fire(CancelReason.REQUESTED) == []


def test_wait_async_is_cancelled(source: CancellationSource) -> None:
    """Whoever cancels a waiting coroutine, or limits it from outside, sees that happen."""

    async def main() -> None:
        waiting = asyncio.create_task(source.token.wait_async(BOUND))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.token.wait_async(BOUND), 0.01)

    asyncio.run(main())
    assert source.fire(CancelReason.REQUESTED) == []
