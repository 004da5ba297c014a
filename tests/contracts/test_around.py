"""The contract of every backend about functions around enqueues and runs, and about descriptions."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from flask_background import WorkItem, current_item

from ..helpers import BOUND
from .conftest import Shop, everywhere

Around = Generator[Any, Any, None]


@everywhere
def test_trace_context(shop: Shop) -> None:
    """An item and its handles carry the trace context of its enqueue, also outside of a request."""
    seen: list[str] = []

    @shop.background.around_enqueue
    def trace(task_name: str) -> Around:
        item: WorkItem[Any] = yield {"traceparent": f"00-{task_name}", "tracestate": "a=1"}
        seen.append(item.id)

    def look() -> list[Any]:
        state = current_item.state
        return [bool(state), state.traceparent, state.tracestate]

    item = shop.task(look, "shop.look").enqueue()
    assert item.result(BOUND) == [False, "00-shop.look", "a=1"]
    assert seen == [item.id]
    found = shop.background.get(item.id)
    assert found is not None
    assert (bool(found.state), found.state.traceparent) == (False, "00-shop.look")
