"""The start page: two buttons for the same work, and how long each answer takes."""

from __future__ import annotations

import re
from html import unescape

import pytest

from ..browser import DESKTOP, PHONE, Browser
from .conftest import Start
from .driver import Demo, item_ids, until


def figures(page: str) -> tuple[float, str]:
    """How many milliseconds the view took, and what the page says of the work."""
    (answered,) = re.findall(r'id="answered">([\d,.]+) ms', page)
    (took,) = re.findall(r'id="took">([^<]*)<', page)
    return float(answered.replace(",", "")), took


def test_background_answers_first(demo: Demo) -> None:
    """The view answers long before the work is done, and the page says how long the work took."""
    answer = demo.post("/in-background")
    answered, took = figures(answer.page)
    assert answered < 1000
    assert took == "…"
    (item_id,) = item_ids(answer)
    assert demo.ended(item_id)["status"] == "succeeded"
    _, took = figures(demo.get(answer.url.removeprefix(demo.url)).page)
    assert 1.8 <= float(took.removesuffix(" s")) < 30


def test_view_keeps_its_visitor_waiting(demo: Demo) -> None:
    """The same function, called in the view, takes the visitor's time, and makes no item."""
    answer = demo.post("/in-view")
    answered, took = figures(answer.page)
    assert answered >= 1800
    assert took == f"{answered / 1000:.1f} s"
    assert item_ids(answer) == []


@pytest.mark.parametrize(
    "query", ["?answered=x", "?item=x&answered=1", "?item=" + "0" * 24, "?answered=1e999"]
)
def test_made_up_addresses(demo: Demo, query: str) -> None:
    """An address that nobody was sent to shows the page, too."""
    assert demo.get("/" + query).status == 200


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_start_page(demo: Demo, browser: Browser, size: tuple[int, int]) -> None:
    """A click shows both figures without a reload, and the code of the page is there."""
    browser.look(size)
    browser.open(demo.url)
    browser.one("main form button").click()
    until(lambda: browser.script("return /[0-9] s$/.test(document.getElementById('took')?.textContent)"))
    for dark in (True, False):
        browser.look(size, dark)
        browser.shot(f"home-{size[0]}" + "-dark" * dark)
        assert browser.problems() == []
    assert browser.one(".code pre").is_displayed()


@pytest.mark.parametrize("path", ["/", "/gallery", "/signup", "/grace", "/cpu", "/patterns", "/journal"])
def test_code_fits_its_half_of_the_page(demo: Demo, path: str) -> None:
    """Each page shows its code, in lines of at most 80 characters."""
    (code,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", demo.get(path).page, re.S)
    assert "def " in code
    assert [line for line in unescape(code).splitlines() if len(line) > 80] == []


def test_taken_port(start_demo: Start, demo: Demo) -> None:
    """A port that another server has is answered with one sentence that names the cure."""
    port = demo.url.rpartition(":")[2]
    with pytest.raises(AssertionError, match=f"Choose another: make demo PORT={int(port) + 1}") as failed:
        start_demo(PORT=port)
    assert "Traceback" not in str(failed.value)


def test_terminal(start_demo: Start) -> None:
    """The terminal has a line for each form, and for what becomes of its item; a retry has no traceback."""
    demo = start_demo(DEMO_TICK_EVERY="0.5")
    (item_id,) = item_ids(demo.post("/patterns/rates"))
    until(lambda: demo.items(item_id)[0]["attempt"] == 2)
    said = [
        line.split("  ", 2)[2]
        for line in demo.log().splitlines()
        if line.count("  ") >= 2 and line[:1].isdigit()
    ]
    name = f"Item {item_id} (demo_app.patterns.ask_for_rates)"
    assert f"{name} enqueued" in said
    assert f"{name} started" in said
    assert any(line.startswith(f"{name} failed in attempt 1 of 4") for line in said)
    assert any(re.fullmatch(r"/patterns/rates answered with 303 after \d+ ms", line) for line in said)
    assert "tick" not in demo.log()
    assert "Traceback" not in demo.log()
