"""``<background-progress>`` in a real Chromium, over a gunicorn with two workers, under a strict CSP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..browser import DESKTOP, Browser
from ..helpers import until
from ..integration.servers import Server, gunicorn

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The site, with two workers."""
    folder = tmp_path_factory.mktemp("status")
    app = "tests.dashboard.status_site:create_app()"
    with gunicorn(folder, "--workers", "2", app=app, journal=str(folder / "journal")) as server:
        yield server


class Work:
    """An item whose progress is a number in a file."""

    def __init__(self, server: Server, path: Path) -> None:
        self.path = path
        self.reach(0)
        self.id = str(server.get(f"/follow?path={path}")["id"])

    def reach(self, done: object) -> None:
        """Have the item report a number; 10 is its end."""
        new = self.path.with_suffix(".new")
        new.write_text(str(done))
        new.replace(self.path)

    def pid(self) -> int:
        """The process that runs the item, once it does."""
        return int(until(lambda: (path := Path(f"{self.path}.pid")).exists() and path.read_text()) or 0)


@pytest.fixture
def work(server: Server, tmp_path: Path) -> Iterator[Work]:
    """An item, which ends with the test."""
    work = Work(server, tmp_path / "work")
    yield work
    work.reach(10)


def shown(browser: Browser) -> dict[str, Any]:
    """What the element shows, and the events that it has sent."""
    found: dict[str, Any] = browser.script("""
        const element = document.querySelector("background-progress");
        const bar = element.querySelector("progress");
        return {
            status: element.getAttribute("status"), text: element.innerText.trim(),
            value: bar?.value, max: bar?.max, label: bar?.getAttribute("aria-label"), ends: window.ends,
        };""")
    return found


Open = Callable[..., dict[str, Any]]


@pytest.fixture
def open_page(server: Server, browser: Browser) -> Open:
    """Opens the page of an item."""

    def open_page(item: str, attributes: str = "") -> dict[str, Any]:
        browser.look(DESKTOP)
        browser.open(f"{server.url}/page/{item}?attributes={attributes}")
        return until(lambda: (now := shown(browser))["status"] and now)

    return open_page


def test_progress_until_the_end(work: Work, browser: Browser, open_page: Open) -> None:
    """The bar follows the item, whichever worker answers; at the end there is one event, with the result."""
    work.reach(3)
    open_page(work.id)
    now = until(lambda: (now := shown(browser))["value"] == 3 and now)
    assert now | {"ends": []} == {
        "status": "running",
        "text": "Running step 3",
        "value": 3,
        "max": 10,
        "label": "Import",
        "ends": [],
    }
    work.reach(7)
    until(lambda: shown(browser)["value"] == 7)
    assert browser.problems() == []
    work.reach(10)
    now = until(lambda: (now := shown(browser))["ends"] and now)
    ((name, detail),) = now["ends"]
    assert (name, detail["status"], detail["result"]) == ("background-progress", "succeeded", "<b>done</b>")
    assert (now["status"], now["value"], now["text"].split()[0]) == ("succeeded", 10, "Done")
    assert browser.problems() == []


def test_worker_is_killed(server: Server, work: Work, browser: Browser, open_page: Open) -> None:
    """After kill -9 of the worker that runs it, the page shows how the item goes on in another one."""
    work.reach(4)
    open_page(work.id)
    until(lambda: shown(browser)["value"] == 4)
    killed = work.pid()
    os.kill(killed, signal.SIGKILL)
    until(lambda: work.pid() != killed)
    work.reach(6)
    until(lambda: shown(browser)["value"] == 6)
    work.reach(10)
    now = until(lambda: (now := shown(browser))["ends"] and now)
    assert [detail["attempt"] for _, detail in now["ends"]] == [2]
    # The worker may have been killed with a request in its hands; the element asks again.
    assert all("net::ERR_" in problem for problem in browser.problems())


def test_failure(work: Work, browser: Browser, open_page: Open) -> None:
    """A failed item says so, in the page's own word, and not why."""
    work.reach("no number")
    open_page(work.id, "%20failed=Schade")
    now = until(lambda: (now := shown(browser))["ends"] and now)
    assert (now["status"], now["text"].split()[0]) == ("failed", "Schade")
    assert "ValueError" not in str(now)


def test_unknown_item(browser: Browser, open_page: Open) -> None:
    """An id that nobody knows is said to be unknown, and is not asked for again."""
    now = open_page("0" * 24)
    assert (now["status"], now["text"], now["value"]) == ("unknown", "Not known", None)
    assert shown(browser)["ends"] == [["background-progress", {"status": "unknown", "is_final": True}]]
    assert all("404 (NOT FOUND)" in problem for problem in browser.problems())


def test_server_that_does_not_answer(server: Server, work: Work, browser: Browser, open_page: Open) -> None:
    """While no answer comes, the element says so and tries again; then it goes on."""
    work.reach(2)
    open_page(work.id)
    until(lambda: shown(browser)["value"] == 2)
    browser.chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        until(lambda: shown(browser)["status"] == "unreachable")
        now = shown(browser)
        assert (now["value"], now["text"]) == (2, "No answer, trying again step 2")
    finally:
        browser.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline | {"offline": False})
    work.reach(5)
    until(lambda: shown(browser)["value"] == 5)
    assert shown(browser)["status"] == "running"
    assert all("net::ERR_" in problem for problem in browser.problems())


def test_hidden_page(work: Work, browser: Browser, open_page: Open) -> None:
    """A page that nobody sees asks for nothing, and asks at once when it is seen again."""
    asked = "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/items/')).length"
    work.reach(1)
    open_page(work.id)
    until(lambda: shown(browser)["value"] == 1)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    browser.script(hide % "true")
    before = browser.script(asked)
    work.reach(2)
    ticks = "const done = arguments[0]; setTimeout(done, 3500)"
    browser.chrome.execute_async_script(ticks)
    assert browser.script(asked) <= before + 1
    browser.script(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: shown(browser)["value"] == 2)


def test_without_javascript(work: Work, server: Server, browser: Browser) -> None:
    """Without JavaScript the element's content stays: here, a link that reloads the page."""
    browser.look(DESKTOP, javascript=False)
    browser.open(f"{server.url}/page/{work.id}")
    assert browser.one("background-progress a").text == "Reload the page"
