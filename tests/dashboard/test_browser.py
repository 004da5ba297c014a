"""The dashboard in a real Chromium, over a real gunicorn with two workers."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..browser import PHONE, Browser
from ..helpers import until
from ..integration.servers import Server, gunicorn
from .shop import HOSTILE

pytestmark = pytest.mark.server

WIDE = (1280, 900)
WIDEST = (1920, 1080)
PAGES = {
    "overview": "/",
    "items": "/items",
    "failed": "/items?status=failed&task=mail.*",
    "tasks": "/tasks",
    "schedules": "/schedules",
    "processes": "/processes",
    "confirm": "/confirm/retry?status=failed",
    "unknown": "/items/0123",
    "wrong": "/items?since=yesterday",
}


class Site:
    """The shop, served."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.url = f"{server.url}/background"

    def enqueue(self, name: str, *arguments: object) -> str:
        """Enqueue an item; return its id."""
        request = urllib.request.Request(
            f"{self.server.url}/enqueue/{name}",
            json.dumps(arguments).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            item_id: str = json.load(answer)
        return item_id

    def show(self, browser: Browser, path: str, role: str = "admin") -> None:
        """Log in, and open a page."""
        browser.open(f"{self.server.url}/login/{role}")
        browser.open(self.url + path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The shop with some items, among them hostile ones."""
    folder = tmp_path_factory.mktemp("shop")
    with gunicorn(
        folder,
        "--worker-class=gthread",
        "--threads=4",
        "--workers=2",
        env={"SHOP": str(folder)},
        app="tests.dashboard.shop:create_app()",
    ) as server:
        site = Site(server, folder)
        for text in HOSTILE:
            site.enqueue("bounce", text)
        for name in ("Ada", "Grace", "Barbara"):
            site.enqueue("welcome", name)
        site.enqueue("resize")
        yield site


def problems(browser: Browser) -> list[str]:
    """Return the faults of a page, without the note that its status was one of a refusal."""
    return [
        problem
        for problem in browser.problems()
        if "status of 404" not in problem and "status of 400" not in problem
    ]


@pytest.mark.parametrize("size", [PHONE, WIDE, WIDEST], ids=["390", "1280", "1920"])
def test_looks(site: Site, browser: Browser, size: tuple[int, int]) -> None:
    """No page is too wide, faint, unnamed or noisy, at any width, in the light and in the dark."""
    browser.look(size)
    running = site.enqueue("count", 40)
    site.show(browser, f"/items/{running}")
    browser.sees("1 of 40")
    failed = site.enqueue("bounce", "no such address")
    browser.open(f"{site.url}/items/{failed}")
    browser.sees("Traceback")
    pages = {**PAGES, "item-running": f"/items/{running}", "item-failed": f"/items/{failed}"}
    for name, path in pages.items():
        browser.open(site.url + path)
        for dark in (True, False):
            browser.look(size, dark)
            if "DEMO_SHOTS" in os.environ:  # pictures to look at, of which each takes a while
                browser.shot(f"dashboard-{name}-{size[0]}" + "-dark" * dark)
            assert problems(browser) == [], name
            assert browser.script("return window.hurt") is None
    browser.open(f"{site.url}/items/{running}")
    browser.one("form[action$='/cancel'] button").click()
    browser.sees("The item was cancelled, or asked to end.")


def test_live(site: Site, browser: Browser) -> None:
    """A page follows its items without a reload: focus, selection, scrolling and open details stay."""
    browser.look(WIDE)
    (site.folder / "done").write_text("x")
    item = site.enqueue("count", 40)
    site.show(browser, f"/items/{item}")
    browser.sees("1 of 40")
    browser.script(
        """window.old = document.querySelector("#title"); document.querySelector("form button").focus();
        window.focused = document.activeElement; scrollTo(0, 100); window.at = scrollY;"""
    )
    (site.folder / "done").write_text("x" * 9)
    browser.sees("9 of 40")
    assert browser.script(
        "return window.old.isConnected && document.activeElement === window.focused && scrollY === window.at"
    )
    browser.one("form[action$='/cancel'] button").click()
    browser.sees("The item was cancelled, or asked to end.")
    browser.one("#item .badge.cancelled")
    assert "notice=" not in browser.script("return location.href")
    assert problems(browser) == []


def test_rows_come_and_stay(site: Site, browser: Browser) -> None:
    """New rows come in above, and the rows that were there are the same elements; selections stay."""
    browser.look(WIDE)
    site.show(browser, "/items?task=mail.welcome")
    browser.one("tr[id^=item-]")
    browser.script(
        """window.row = document.querySelector("tr[id^=item-] a"); window.row.focus();
        window.count = document.querySelectorAll("tr[id^=item-]").length"""
    )
    item = site.enqueue("welcome", "Katherine")
    browser.one(f"#item-{item}")
    assert browser.script("return window.row.isConnected && document.activeElement === window.row")
    assert browser.script("return document.querySelectorAll('tr[id^=item-]').length === window.count + 1")
    browser.script("getSelection().selectAllChildren(document.querySelector('tr[id^=item-] .described'))")
    site.enqueue("welcome", "Hedy")
    assert browser.script("return String(getSelection())").strip() == "welcome Katherine"


def test_times_are_local(site: Site, browser: Browser) -> None:
    """Times are in the visitor's zone, in lists and in the filter's fields; the address has UTC."""
    browser.look(WIDE)
    browser._command("Emulation.setTimezoneOverride", timezoneId="Pacific/Kiritimati")  # UTC+14
    try:
        site.show(browser, "/items?since=2020-01-01T12:00:00Z")
        assert browser.one("#since").get_attribute("value") == "2020-01-02T02:00"
        assert "Kiritimati" in browser.text()
        shown = browser.one("tr time")
        assert "UTC" in str(shown.get_attribute("title"))
        assert "UTC" not in shown.text
        browser.one(".filter button").click()
        assert "since=2020-01-01T12%3A00%3A00Z" in browser.script("return location.href")
        assert "text=" not in browser.script("return location.href")
    finally:
        browser._command("Emulation.setTimezoneOverride", timezoneId="")


def test_hidden_pages_ask_nothing(site: Site, browser: Browser) -> None:
    """A page stops asking while it is paused or hidden, and asks again when it is seen."""
    browser.look(WIDE)
    site.show(browser, "/")
    count = (
        "return performance.getEntriesByType('resource').filter((e) => e.initiatorType === 'fetch').length"
    )
    until(lambda: browser.script(count) >= 1)
    browser.script(
        """Object.defineProperty(document, "hidden", { get: () => window.away, configurable: true });
        window.away = true; document.dispatchEvent(new Event("visibilitychange"));"""
    )
    before = browser.script(count)
    browser.chrome.execute_async_script("setTimeout(arguments[0], 3000)")
    assert browser.script(count) <= before + 1  # one may have been under way
    before = browser.script(count)
    browser.script("window.away = false; document.dispatchEvent(new Event('visibilitychange'));")
    until(lambda: browser.script(count) > before)
    browser.one("#pause").click()
    assert browser.one("#pause").text == "Resume updates"
    assert "Updates are paused." in browser.text()


def test_session_that_ends(site: Site, browser: Browser) -> None:
    """A page whose visitor is logged out says so, and asks no more."""
    browser.look(WIDE)
    site.show(browser, "/")
    browser.one("#numbers")
    browser.chrome.delete_cookie("session")
    browser.sees("You are no longer signed in: reload the page.")


def test_without_javascript(site: Site, browser: Browser) -> None:
    """All pages, filters and actions work without JavaScript, and times say that they are in UTC."""
    browser.look(PHONE, javascript=False)
    failed = site.enqueue("bounce", "no such street")
    site.show(browser, "/")
    for label in ("Items", "Tasks", "Schedules", "Processes", "Overview"):
        browser.chrome.find_element("link text", label).click()
        until(lambda label=label: browser.script("return document.querySelector('h1').innerText") == label)  # type: ignore[misc]
        assert problems(browser) == []
    browser.chrome.find_element("link text", "Items").click()
    browser.one("#text").send_keys("no such street")
    browser.one(".filter button").click()
    until(lambda: "text=no+such+street" in browser.chrome.current_url)
    browser.one(f"#item-{failed} a")
    assert "UTC" in browser.one("tr time").text
    browser.one(f"#item-{failed} a").click()
    browser.one("form[action$='/retry'] button").click()
    browser.sees("The item was queued again.")
    browser.chrome.find_element("link text", "Tasks").click()
    browser.one("form[action*='mail.welcome'] button").click()
    browser.sees("The task mail.welcome was paused.")
    browser.one("form[action*='resume'] button").click()
    browser.sees("The task mail.welcome was resumed.")
    browser.chrome.find_element("link text", "Schedules").click()
    browser.one("form[action*='/run'] button").click()
    browser.sees("shop.tidy was enqueued.")
    until(lambda: _ended(browser, site, failed))
    browser.open(f"{site.url}/items?status=failed&text=no+such+street")
    browser.one(".bulk a[href*='delete']").click()
    browser.sees("Delete 1 item?")
    browser.one(".asks button").click()
    browser.sees("1 item was deleted.")
    browser.look(PHONE)


def _ended(browser: Browser, site: Site, item: str) -> bool:
    browser.open(f"{site.url}/items/{item}")
    return bool(browser.all("#item .title .badge.failed"))


def test_forms_of_other_sites(site: Site, browser: Browser, tmp_path: Path) -> None:
    """A form on another site that posts to the dashboard with the visitor's cookies does nothing."""
    browser.look(WIDE)
    failed = site.enqueue("bounce", "no such city")
    site.show(browser, f"/items/{failed}")
    token = browser.one("form[action$='/delete'] [name=token]").get_attribute("value")
    evil = tmp_path / "evil.html"
    evil.write_text(
        f'<form method="post" action="{site.url}/items/{failed}/delete">'
        f'<input name="token" value="{token}"><button>Win</button></form>'
    )
    browser.open(f"file://{evil}")
    browser.one("button").click()
    until(lambda: "nothing was done" in browser.text() or "log in" in browser.text())
    browser.complaints()
    browser.open(f"{site.url}/items/{failed}")
    assert "no such city" in browser.text()


@pytest.mark.parametrize("path", ["/", "/items", "/tasks", "/schedules", "/processes"])
def test_keyboard(site: Site, browser: Browser, path: str) -> None:
    """The keyboard leads to the content first, and every control that has the focus shows it."""
    browser.look(WIDE)
    site.show(browser, path)
    browser.script("document.querySelector('.skip').focus()")
    assert browser.script("return document.activeElement.offsetWidth") > 50
    assert len(browser.all("h1")) == 1
    assert len(browser.all("header [aria-current=page]")) == 1
    for element in browser.all("main a, main button, main input:not([type=hidden])")[:20]:
        if not element.is_displayed():
            continue
        shown: Any = browser.chrome.execute_script(
            """arguments[0].focus({ focusVisible: true });
            return getComputedStyle(arguments[0]).outlineStyle !== "none";""",
            element,
        )
        assert shown, element.get_attribute("outerHTML")
