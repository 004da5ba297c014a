"""The pages show what the monitor sees."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from html import unescape
from typing import Any

import pytest

from flask_background.errors import JournalError
from flask_background.monitoring.monitor import Monitor

from ..helpers import until
from .conftest import Shop, Visitor, text_of

LIVE = {"X-Background-Live": "1"}


def test_overview_of_an_idle_app(admin: Visitor) -> None:
    """An app without items says that nothing needs a look."""
    text = admin.text()
    assert "Nothing failed in the last hour, nothing is late, and nothing is paused." in text
    assert "No failed item is kept." in text


def test_overview(shop: Shop, admin: Visitor) -> None:
    """What failed and why, what is late, what is paused and who is alive stand on the first page."""
    failed = shop.ended("bounce", "no such address")
    shop.ended("welcome", "Ada")
    admin.submit("/tasks", "name=photos.resize")
    text = admin.text()
    assert "1 failed in the last hour" in text
    assert "50 % of 2 items that ended" in text
    assert "mail.bounce 1 of 1 failed (100 %)" in text
    assert "no such address" in text
    assert f"/items/{failed}" in admin.page()
    assert "photos.resize The task is paused since" in text
    assert "In the last 3 h 2 items ended, 1 of them failed. The most in 5 min: 2." in unescape(admin.page())


def test_overview_names_what_is_late(shop: Shop, admin: Visitor) -> None:
    """Items that are due and have waited for more than a minute are counted by task."""
    for _ in range(2):  # both workers
        shop.running("count", 40)
    item = shop.enqueue("welcome", "Ada")
    with closing(sqlite3.connect(shop.folder / "journal" / "journal.sqlite3")) as journal, journal:
        journal.execute("update item set due = due - 90, enqueued = enqueued - 90 where id = ?", (item,))
    text = admin.text()
    assert "1 late" in text
    assert "mail.welcome 1 item has waited for more than a minute" in text
    assert "queued late" in admin.text("/items")
    shop.go()
    until(lambda: shop.status(item) == "succeeded")


def test_items(shop: Shop, admin: Visitor) -> None:
    """A list shows the status, description, error, times and attempts of each item, the latest first."""
    first = shop.ended("welcome", "Ada")
    second = shop.ended("resize")
    page = admin.page("/items")
    assert page.index(second) < page.index(first)
    text = admin.text("/items")
    for part in ("welcome Ada", "succeeded", "failed", "2 of 2", "the image server does not answer"):
        assert part in text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=failed", {"bounce", "resize"}),
        ("status=succeeded", {"welcome"}),
        ("status=queued", set()),
        ("task=mail.welcome", {"welcome"}),
        ("task=mail.*", {"welcome", "bounce"}),
        ("task=nothing", set()),
        ("text=ADDRESS", {"bounce"}),
        ("text=welcome", {"welcome"}),
        ("text=image+server", {"resize"}),
        ("status=failed&task=mail.*&text=address", {"bounce"}),
        ("executor=thread", {"bounce", "resize", "welcome"}),
        ("executor=other", set()),
        ("key=none", set()),
        ("since=2001-01-01", {"bounce", "resize", "welcome"}),
        ("until=2001-01-01T12:00:00Z", set()),
        ("text=", {"bounce", "resize", "welcome"}),
    ],
)
def test_filters(shop: Shop, admin: Visitor, query: str, found: set[str]) -> None:
    """The filter in the address selects the items, and is in the form again."""
    ids = {
        "welcome": shop.ended("welcome", "Ada"),
        "bounce": shop.ended("bounce", "no such address"),
        "resize": shop.ended("resize"),
    }
    page = admin.page(f"/items?{query}")
    assert {name for name, item_id in ids.items() if item_id in page} == found
    name, _, value = query.rpartition("&")[2].partition("=")
    if value and name != "status":
        assert f'value="{value.replace("+", " ")}"' in page


@pytest.mark.parametrize("query", ["status=odd", "since=yesterday", "until=2030-13-01", "since=99999-01-01"])
def test_bad_filters(shop: Shop, admin: Visitor, query: str) -> None:
    """A filter that is not right lists nothing, and says at its field what is wrong."""
    item = shop.ended("welcome", "Ada")
    answer = admin.get(f"/items?{query}")
    assert answer.status_code == 400
    assert item not in answer.text
    assert "No item ever has this status" in answer.text or "Write a time such as" in answer.text


def test_list_goes_on(shop: Shop, admin: Visitor) -> None:
    """A long list has pages, whose links keep the filter; together they have every item once."""
    ids = [shop.enqueue("welcome", str(number)) for number in range(110)]
    until(lambda: shop.status(ids[-1]) == "succeeded")
    seen: list[str] = []
    address: str | None = "/items?task=mail.*"
    while address:
        page = admin.page(address)
        seen += [item_id for item_id in ids if f'id="item-{item_id}"' in page]
        rest = page.partition('rel="next" href="/background')
        address = unescape(rest[2].partition('"')[0]) or None
        assert address is None or "task=mail.*" in address
    assert sorted(seen) == sorted(ids)
    wrong = admin.get("/items?after=nonsense")
    assert wrong.status_code == 400


def test_item(shop: Shop, admin: Visitor) -> None:
    """An item's page has its runs, error, traceback, request and facts, and no argument."""
    item = shop.ended("resize")
    page = admin.page(f"/items/{item}")
    text = text_of(page)
    assert "Attempt 1" in text
    assert "Attempt 2" in text
    assert "ConnectionRefusedError: the image server does not answer" in text
    assert "Traceback (most recent call last)" in text
    assert "shop.py" in text
    assert "method POST" in text
    assert "/enqueue/resize" in text
    assert "2 runs within" in page


def test_progress(shop: Shop, admin: Visitor) -> None:
    """A running item's page and row show how far the item is, and may be cancelled."""
    item = shop.running("count", 40)
    until(lambda: "1 of 40" in admin.text(f"/items/{item}"))
    assert '<progress value="1" max="40"' in admin.page(f"/items/{item}")
    assert "1 of 40, page <b>one</b>" in admin.text("/items")
    (shop.folder / "done").write_text("x" * 7)
    until(lambda: "7 of 40" in text_of(admin.page(f"/items/{item}", headers=LIVE)))
    shop.go()
    until(lambda: shop.status(item) == "succeeded")
    assert "<progress" not in admin.page(f"/items/{item}")


def test_item_in_memory(shop: Shop, admin: Visitor) -> None:
    """An item in memory is shown, and the page says whose memory that is."""
    item = shop.running("cache")
    assert f"memory of process {os.getpid()}" in admin.text(f"/items/{item}")
    text = admin.text("/items")
    assert "shop.cache" in text
    assert f"Of items in memory the list has those of process {os.getpid()} alone" in text
    shop.go()
    until(lambda: shop.status(item) == "succeeded")


def test_unknown_item(admin: Visitor) -> None:
    """The page of an item that is not known says where the process has looked."""
    answer = admin.get("/items/0123")
    assert answer.status_code == 404
    assert "No such item is known" in answer.text


def test_tasks(shop: Shop, admin: Visitor) -> None:
    """Each task has its numbers of the period; a period that is none is refused."""
    shop.ended("bounce", "no such address")
    shop.ended("welcome", "Ada")
    text = admin.text("/tasks")
    for part in ("mail.bounce", "mail.welcome", "100 %", "no such address", "1 / h"):
        assert part in text
    assert "4 / h" in admin.text("/tasks?period=15m")
    assert admin.get("/tasks?period=1y").status_code == 400


def test_schedules(shop: Shop, admin: Visitor) -> None:
    """Each periodic task has its next time, and may be run now."""
    text = admin.text("/schedules")
    assert "shop.tidy" in text
    answer = admin.submit("/schedules", "/run")
    item = admin.client.get(answer.location).text
    assert "shop.tidy was enqueued." in item


def test_processes(shop: Shop, admin: Visitor) -> None:
    """The page has this process, its executors and what its memory has."""
    item = shop.running("cache")
    text = admin.text("/processes")
    assert str(os.getpid()) in text
    assert "has answered you" in text
    until(lambda: "In memory only: 0 queued, 1 running" in admin.text("/processes"))
    shop.go()
    until(lambda: shop.status(item) == "succeeded")


@pytest.mark.parametrize("path", ["/", "/items", "/tasks", "/schedules", "/processes"])
def test_live_parts(admin: Visitor, path: str) -> None:
    """A request of the script gets the page's live parts and nothing else, as they are on the page."""
    part = admin.page(path, headers=LIVE)
    assert "<html" not in part
    assert "<h1" not in part
    assert part.count("data-live") == admin.page(path).count("data-live") >= 1


def test_journal_that_cannot_be_read(shop: Shop, admin: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal cannot be asked, pages say why, with the status of an app that is busy."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise JournalError("the journal is <locked>")

    monkeypatch.setattr(Monitor, "items", fail)
    for path in ("/", "/items"):
        answer = admin.get(path)
        assert answer.status_code == 503
        assert "the journal is &lt;locked&gt;" in answer.text
        assert answer.headers["Retry-After"]
