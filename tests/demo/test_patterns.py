"""The page with retries, a schedule, and an item that waits for a commit."""

from __future__ import annotations

import re

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .conftest import Start
from .driver import Demo, item_ids, until


def test_retries(demo: Demo) -> None:
    """The service answers the third attempt, and the page says which that was."""
    (item_id, *_) = item_ids(demo.post("/patterns/rates"))
    until(lambda: demo.items(item_id)[0]["message"] == "Waiting for its next run")
    item = demo.ended(item_id)
    assert (item["status"], item["attempt"]) == ("succeeded", 3)
    assert "Attempt 3" in demo.get("/patterns").text


def test_schedule(start_demo: Start) -> None:
    """The page says when the task ran last, and in which worker."""
    demo = start_demo(DEMO_TICK_EVERY="0.5")
    said = until(lambda: re.search(r"ran \d+ s ago, in worker\s+(\d+)", demo.get("/patterns").text))
    assert int(said[1]) in demo.workers()


def test_order_is_confirmed(start_demo: Start) -> None:
    """An item that waited for the commit finds the order's row, and confirms it."""
    demo = start_demo()
    demo.post("/patterns/orders", end="commit")
    assert until(
        lambda: re.search(r"Order 1 : .*confirmed by item \w{6} in worker \d+", demo.get("/patterns").text)
    )


def test_order_that_is_rolled_back(start_demo: Start) -> None:
    """A roll-back leaves no order and no item."""
    demo = start_demo()
    text = demo.post("/patterns/orders", end="rollback").text
    assert "Rolled back: the order is gone, and its item was dropped." in text
    assert "Order 1" not in text
    assert "confirm_order) started" not in demo.log()
    assert "confirm_order) dropped" in demo.log()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page(start_demo: Start, browser: Browser, size: tuple[int, int]) -> None:
    """All three are seen without a reload, in light and dark."""
    demo = start_demo()
    browser.look(size)
    browser.open(demo.url + "/patterns")
    browser.one("[value=rollback]").click()
    browser.sees("its item was dropped")
    browser.one("[value=commit]").click()
    browser.sees("confirmed by item")
    browser.one("main form button").click()
    browser.sees("Attempt 2")
    for dark in (True, False):
        browser.look(size, dark)
        browser.shot(f"patterns-{size[0]}" + "-dark" * dark)
        assert browser.problems() == []
    browser.sees("Attempt 3")
