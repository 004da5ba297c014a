"""The page about CPU: the same computation on threads and in child processes."""

from __future__ import annotations

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .conftest import Start
from .driver import Demo, item_ids, until


@pytest.mark.parametrize("where", ["threads", "children"])
def test_primes(start_demo: Start, where: str) -> None:
    """Both ways count the same primes, and say how far they are."""
    demo = start_demo()
    ids = item_ids(demo.post("/cpu", where=where))
    assert len(ids) == 4
    assert demo.post("/cpu", where=where).status == 429
    for item_id in ids:
        item = until(lambda item_id=item_id: next((i for i in demo.items(item_id) if i["final"]), None), 60)
        assert (item["status"], item["attempt"]) == ("succeeded", 1)
        assert item["progress"]["message"] == "37,706 primes below 450,000"


def test_bounds(demo: Demo) -> None:
    """A place that is none is refused."""
    assert demo.post("/cpu", where="elsewhere").status == 400


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_times_its_view(start_demo: Start, browser: Browser, size: tuple[int, int]) -> None:
    """The page compares how long a view takes to answer with and without items, in light and dark."""
    demo = start_demo()
    browser.look(size)
    browser.open(demo.url + "/cpu")
    until(lambda: times(browser, "idle"))
    browser.one("[value=children]").click()
    browser.one("[data-live]")
    until(lambda: times(browser, "children"))
    assert times(browser, "idle"), "the page was loaded anew, and its figures are gone"
    assert not times(browser, "threads")
    until(lambda: browser.script("return document.querySelector('polyline').points.numberOfItems") > 20)
    for dark in (True, False):
        browser.look(size, dark)
        browser.shot(f"cpu-{size[0]}" + "-dark" * dark)
        assert browser.problems() == []
    until(lambda: not browser.all("[data-live]"), 60)
    assert browser.one("#load[data-load=idle]")


def times(browser: Browser, load: str) -> list[str]:
    """The median and the 99th percentile under a load, once there are any."""
    cells = [cell.text for cell in browser.all(f"tr[data-load={load}] td")]
    return [cell for cell in cells if cell.endswith(" ms")]
