"""The page with all items."""

from __future__ import annotations

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .driver import Demo, item_ids


def test_all_workers_show_durable_items(demo: Demo) -> None:
    """An ended item is listed with its attempt, and under its status alone."""
    (item_id,) = item_ids(demo.post("/in-background"))
    demo.ended(item_id)
    for _ in range(4):  # whichever worker answers
        assert item_id in demo.get("/journal").page
    assert item_id in demo.get("/journal?status=succeeded").page
    assert item_id not in demo.get("/journal?status=failed").page
    assert demo.get("/journal?status=made-up").status == 200


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
