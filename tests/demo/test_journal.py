"""The page with all items."""

from __future__ import annotations

import re

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .conftest import Start
from .driver import Demo, item_ids, until


def test_all_workers_show_durable_items(demo: Demo) -> None:
    """An ended item is listed with its attempt, and under its status alone."""
    (item_id,) = item_ids(demo.post("/in-background"))
    demo.ended(item_id)
    for _ in range(4):  # whichever worker answers
        assert item_id in demo.get("/journal").page
    assert item_id in demo.get("/journal?status=succeeded").page
    assert item_id not in demo.get("/journal?status=failed").page
    assert demo.get("/journal?status=made-up").status == 200


def test_schedules_do_not_fill_the_page(start_demo: Start) -> None:
    """Of a task on a schedule the latest run alone is listed."""
    demo = start_demo(DEMO_TICK_EVERY="0.2")

    def last_tick() -> str | None:
        found = re.findall(r'data-item="(\w+)"[^>]*>\s*<td>patterns\.<wbr>tick', demo.get("/journal").page)
        assert len(found) <= 1
        return found[0] if found else None

    first = until(last_tick)
    until(lambda: last_tick() != first)


def test_page_follows_its_items(demo: Demo, browser: Browser) -> None:
    """A running item's row says so, and that it is done, without a reload."""
    (item_id,) = item_ids(demo.post("/in-background"))
    browser.look(DESKTOP)
    browser.open(demo.url + "/journal")
    browser.one(f"#item-{item_id}[data-live]")
    browser.one(f"#item-{item_id}[data-status=succeeded]")
    assert browser.problems() == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page(demo: Demo, browser: Browser, size: tuple[int, int]) -> None:
    """The table stays in its place on a narrow page, in light and dark."""
    (item_id,) = item_ids(demo.post("/in-background"))
    demo.ended(item_id)
    browser.look(size)
    browser.open(demo.url + "/journal")
    browser.sees(item_id)
    for dark in (True, False):
        browser.look(size, dark)
        browser.shot(f"journal-{size[0]}" + "-dark" * dark)
        assert browser.problems() == []
