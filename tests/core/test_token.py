"""The token tells that an item should end, why and by when; the source fires it once."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from functools import partial

import pytest

from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import ItemCancelledError

from ..helpers import BOUND, FOREVER, callbacks_are_over, until


@pytest.fixture
def source() -> CancellationSource:
    """A source that has not fired."""
    return CancellationSource()


def test_before_it_fires(source: CancellationSource) -> None:
    """A new token has not fired, and limits nothing."""
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
    """A token fires once: later reasons change nothing and call no callback."""
    called: list[int] = []
    source.token.on_cancel(lambda: called.append(1))
    assert source.fire(CancelReason.TIMEOUT)
    assert not source.fire(CancelReason.SHUTDOWN)
    assert source.token.reason is CancelReason.TIMEOUT
    until(lambda: called)
    callbacks_are_over()
    assert called == [1]


def test_fires_once_among_threads(source: CancellationSource) -> None:
    """Of many threads that fire a token at once, one does."""
    barrier = threading.Barrier(8)
    got = []

    def fire() -> None:
        barrier.wait(BOUND)
        got.append(source.fire(CancelReason.REQUESTED))

    threads = [threading.Thread(target=fire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert sorted(got) == [False] * 7 + [True]


def test_remaining(source: CancellationSource) -> None:
    """The earliest deadline stays; the remaining time decreases, and is never below zero."""
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
    """A callback is called when the token fires; one that is added later is called at once."""
    called: list[str] = []
    source.token.on_cancel(lambda: called.append("before"))
    source.fire(CancelReason.REQUESTED)
    until(lambda: called == ["before"])
    source.token.on_cancel(lambda: called.append("after"))
    assert called == ["before", "after"]


def test_on_cancel_holds_nobody_up(source: CancellationSource, gate: threading.Event) -> None:
    """A callback that blocks holds up neither the firing thread, nor other callbacks, nor waiters."""
    called = [threading.Event() for _ in range(3)]
    woken = threading.Event()
    threading.Thread(target=lambda: source.token.wait(BOUND) and woken.set(), daemon=True).start()
    until(lambda: source.token._wakers)
    for event in called:
        source.token.on_cancel(partial(gate.wait, BOUND))
        source.token.on_cancel(event.set)
    source.fire(CancelReason.REQUESTED)
    assert woken.wait(2.0)
    for event in called:
        assert event.wait(2.0)
    assert not gate.is_set()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_on_cancel_raises(error: type[BaseException]) -> None:
    """The error of a callback goes to the source's ``failed``, and the other callbacks are called."""
    failed: list[BaseException] = []
    source = CancellationSource(failed.append)
    called = threading.Event()

    def fail() -> None:
        raise error

    source.token.on_cancel(fail)
    source.token.on_cancel(called.set)
    source.fire(CancelReason.REQUESTED)
    assert called.wait(BOUND)
    until(lambda: failed)
    assert [type(each) for each in failed] == [error]


def test_on_cancel_taken_back(source: CancellationSource) -> None:
    """A withdrawn callback is not called; withdrawing it again, or too late, does no harm."""
    called: list[str] = []
    forget = source.token.on_cancel(lambda: called.append("forgotten"))
    keep = source.token.on_cancel(lambda: called.append("kept"))
    forget()
    forget()
    source.fire(CancelReason.REQUESTED)
    until(lambda: called)
    callbacks_are_over()
    keep()
    assert called == ["kept"]


class Odd:
    """A callback that cannot be compared."""

    def __init__(self, called: list[Odd]) -> None:
        self._called = called

    def __call__(self) -> None:
        """Note the call."""
        self._called.append(self)

    def __eq__(self, other: object) -> bool:
        raise ValueError("cannot be compared")

    __hash__ = None  # type: ignore[assignment]


def test_on_cancel_taken_back_among_odd_ones(source: CancellationSource) -> None:
    """A callback is withdrawn by identity, whatever its ``__eq__`` says."""
    called: list[Odd] = []
    first, second = Odd(called), Odd(called)
    source.token.on_cancel(first)
    source.token.on_cancel(second)()
    source.fire(CancelReason.REQUESTED)
    until(lambda: called)
    callbacks_are_over()
    assert called[0] is first
    assert len(called) == 1


@pytest.mark.parametrize("timeout", [0.02, 0.0, -1.0])
def test_wait_ends(source: CancellationSource, timeout: float) -> None:
    """A wait ends in time if nothing fires, and leaves nothing behind in the token."""
    began = time.monotonic()
    assert not source.token.wait(timeout)
    assert max(0.0, timeout) <= time.monotonic() - began < BOUND
    assert not source.token._wakers


def test_wait_wakes_all(source: CancellationSource) -> None:
    """All waiters are woken, also those without a limit; a fired token makes no thread wait."""
    woken = []
    waiters = [
        threading.Thread(target=lambda t=timeout: woken.append(source.token.wait(t)), daemon=True)
        for timeout in (None, None, BOUND)
    ]
    for waiter in waiters:
        waiter.start()
    until(lambda: len(source.token._wakers) == 3)
    source.fire(CancelReason.REQUESTED)
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
        await asyncio.to_thread(source.fire, CancelReason.SHUTDOWN)
        return await asyncio.wait_for(waiting, BOUND)

    assert asyncio.run(main())
    assert asyncio.run(source.token.wait_async(0))


@pytest.mark.parametrize("timeout", [0.02, 0.0, -1.0])
def test_wait_async_ends(source: CancellationSource, timeout: float) -> None:
    """A coroutine's wait ends in time too, and leaves nothing behind."""
    assert not asyncio.run(source.token.wait_async(timeout))
    assert not source.token._wakers


def test_wait_async_is_cancelled(source: CancellationSource) -> None:
    """A waiting coroutine can be cancelled, and limited, from outside."""

    async def main() -> None:
        waiting = asyncio.create_task(source.token.wait_async(BOUND))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.token.wait_async(BOUND), 0.01)

    asyncio.run(main())
    assert not source.token._wakers


@pytest.mark.parametrize("timeout", FOREVER)
def test_wait_takes_any_number(source: CancellationSource, timeout: float) -> None:
    """The token ends a wait of any timeout; NaN and negative timeouts do not wait."""
    threading.Timer(0.02, source.fire, [CancelReason.REQUESTED]).start()
    assert source.token.wait(timeout)


@pytest.mark.parametrize("timeout", FOREVER)
def test_wait_async_takes_any_number(source: CancellationSource, timeout: float) -> None:
    """The token ends a coroutine's wait of any timeout."""
    threading.Timer(0.02, source.fire, [CancelReason.REQUESTED]).start()
    assert asyncio.run(source.token.wait_async(timeout))


@pytest.mark.parametrize("timeout", [math.nan, -math.inf, -(10**400)])
def test_wait_takes_no_time(source: CancellationSource, timeout: float) -> None:
    """NaN and negative timeouts do not wait."""
    assert not source.token.wait(timeout)
    assert not asyncio.run(source.token.wait_async(timeout))


def test_wait_of_a_closed_loop(source: CancellationSource) -> None:
    """A coroutine on a loop that was closed meanwhile does not keep other waiters from being woken."""
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(source.token.wait_async())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    called = threading.Event()
    source.token.on_cancel(called.set)
    assert source.fire(CancelReason.REQUESTED)
    assert called.wait(BOUND)
    waiting.get_coro().close()  # type: ignore[union-attr]
