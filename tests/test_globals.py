"""current_item, inside and outside of items."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from flask import Flask

from flask_background import Background, WorkItem, current_item

from .helpers import BOUND


def test_outside() -> None:
    """Outside of an item it is false, and using it is an error that says what to do."""
    assert not current_item
    for use in (
        lambda: current_item.id,
        lambda: current_item.token,
        lambda: current_item.report_progress(1),
        lambda: current_item._get_current_object(),  # type: ignore[attr-defined]
    ):
        with pytest.raises(RuntimeError, match="Working outside of a work item") as caught:
            use()
        assert "background.enqueue()" in str(caught.value)
        assert "if current_item:" in str(caught.value)


def test_in_a_view(app: Flask) -> None:
    """A request is not an item."""
    with app.test_request_context():
        assert not current_item


def test_at_any_depth(background: Background) -> None:
    """current_item stands for the item in all functions that the item calls."""

    def deep(levels: int) -> Any:
        return deep(levels - 1) if levels else current_item._get_current_object()  # type: ignore[attr-defined]

    item = background.enqueue(lambda: [deep(20)])
    assert item.result(BOUND) == [item]


def test_not_in_other_threads(background: Background) -> None:
    """current_item is not bound in a thread that an item starts."""

    def work() -> list[bool]:
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(bool(current_item)))
        thread.start()
        thread.join(BOUND)
        return seen

    assert background.enqueue(work).result(BOUND) == [False]


def test_each_has_its_own(background: Background) -> None:
    """Coroutines that run at the same time on one thread each see their own item, in child tasks too."""

    async def look() -> Any:
        await asyncio.sleep(0.001)
        return current_item._get_current_object()  # type: ignore[attr-defined]

    async def work(barrier: asyncio.Barrier) -> list[WorkItem[Any]]:
        await barrier.wait()
        return [await look(), await asyncio.create_task(look()), *await asyncio.gather(look(), look())]

    barrier = asyncio.Barrier(10)
    items = [background.enqueue(work, barrier) for _ in range(10)]
    for item in items:
        assert item.result(BOUND) == [item] * 4
