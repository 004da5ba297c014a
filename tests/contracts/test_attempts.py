"""The contract of every backend about an item's attempts, and about an item that is asked to end."""

from __future__ import annotations

import threading

from flask_background import CancelReason, Status, current_item
from flask_background.app_state import state_of
from flask_background.errors import ItemTimeoutError

from ..helpers import BOUND, until
from .conftest import Shop, everywhere


@everywhere
def test_token_of_each_attempt(shop: Shop) -> None:
    """An attempt after a timeout has a token that has not fired, and all of its time."""
    seen = []

    def slow() -> str:
        token = current_item.token
        seen.append((token.cancelled, token.remaining))
        if current_item.attempt < 3:
            assert token.wait(BOUND)
            token.raise_if_cancelled()
        return "in time"

    item = shop.task(slow, timeout=0.2, max_attempts=3, backoff=0.01).enqueue()
    assert item.result(BOUND) == "in time"
    assert [fired for fired, _ in seen] == [False] * 3
    assert all(0.0 < remaining <= 0.2 for _, remaining in seen if remaining is not None)
    assert item.attempt == 3


@everywhere
def test_timeouts_use_up_the_attempts(shop: Shop) -> None:
    """An item whose attempts all take too long fails with a timeout."""

    def slow() -> None:
        assert current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    item = shop.task(slow, timeout=0.02, max_attempts=2, backoff=0.01).enqueue()
    error = item.exception(BOUND)
    assert isinstance(error, ItemTimeoutError) or "ItemTimeoutError" in str(error)
    assert item.attempt == 2


def test_no_attempt_follows_a_cancel(shop: Shop, gate: threading.Event) -> None:
    """A run that was asked to end, and fails with an error of its own, is the last one."""
    runs = []

    def work() -> None:
        runs.append(current_item.attempt)
        gate.set()
        assert current_item.token.wait(BOUND)
        raise OSError("the connection was closed")

    item = shop.task(work, max_attempts=5, backoff=0.01).enqueue()
    assert gate.wait(BOUND)
    assert item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.FAILED
    assert shop.background.wait_idle(BOUND)
    assert runs == [1]


def test_a_cancel_fires_once(shop: Shop, gate: threading.Event) -> None:
    """A coroutine that was cancelled cleans up undisturbed."""
    ended = []

    async def work() -> None:
        import asyncio

        gate.set()
        try:
            await asyncio.sleep(BOUND)
        finally:
            await asyncio.sleep(0.3)  # longer than a few looks into the journal
            ended.append(current_item.token.reason)

    item = shop.task(work).enqueue()
    assert gate.wait(BOUND)
    assert item.cancel()
    if shop.durable:  # somebody else's bell has the journal looked at
        session = state_of(shop.app).durable.session
        for _ in range(5):
            session.wake_self()
            until(lambda: item._source is not None and item._source.token.cancelled)
    assert item.wait(BOUND)
    assert ended == [CancelReason.REQUESTED]
    assert item.status is Status.CANCELLED
