"""Whatever an item holds, pages show it as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from ..helpers import until
from .conftest import Shop, Visitor
from .shop import HOSTILE

PAGES = ("/", "/items", "/tasks", "/schedules", "/processes")


class Tags(HTMLParser):
    """The elements of a page, with their attributes' names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: set[tuple[str, ...]] = set()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add((tag, *sorted(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts(shop: Shop, admin: Visitor, text: str) -> None:
    """A hostile text brings no element into any page, no hidden character, and at most some lines."""
    item = shop.ended("bounce", text)
    for path in (*PAGES, f"/items/{item}", "/items?text=" + "%3Cb%3E", "/confirm/retry?task=%3Cb%3E"):
        html = admin.page(path)
        tags = Tags(html).seen
        assert not {tag[0] for tag in tags} & {"iframe", "style", "textarea"}
        assert {tag for tag in tags if tag[0] == "img"} == {("img", "alt", "height", "src", "width")}
        assert ("script",) not in tags
        assert not any(name.startswith("on") for tag in tags for name in tag[1:])
        assert "<h1>not ours" not in html
        assert "133" + "7" not in html
        assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html) is None
        assert len(html) < 250_000


def test_a_million_characters(shop: Shop, admin: Visitor) -> None:
    """Of an error of very many characters the page leaves the middle out, and shows the end."""
    item = shop.ended("bounce", "A" * 300_000 + "the end")
    page = admin.page(f"/items/{item}")
    assert len(page) < 100_000
    assert "the end" in page
    assert "characters are left out" in page
    longer = shop.ended("bounce", "A" * 900_000)
    assert len(admin.page(f"/items/{longer}")) < 100_000
    for path in PAGES:
        assert len(admin.page(path)) < 60_000


def test_hostile_addresses(shop: Shop, admin: Visitor) -> None:
    """Hostile filters and ids in an address are text, too."""
    for text in HOSTILE:
        for path in ("/items", "/confirm/retry"):
            for name in ("task", "key", "text", "executor", "status", "since"):
                answer = admin.get(path, query_string={name: text})
                assert answer.status_code in (200, 400), answer.text
                assert "<script>" not in answer.text
                assert "<img src=x" not in answer.text
        answer = admin.client.get(f"/background/items/{text[:50].replace('/', '_')}")
        assert "<script>" not in answer.text
        assert answer.status_code in (404, 405)


def test_secrets_are_not_shown(shop: Shop) -> None:
    """Neither arguments nor headers, cookies or form of the request stand on any page."""
    admin = shop.visitor("admin")
    answer = admin.client.post(
        "/enqueue/welcome",
        json=["Ada"],
        query_string={"password": "swordfish"},
        headers={"Authorization": "Bearer swordfish", "X-Key": "swordfish"},
    )
    item = answer.get_json()
    until(lambda: shop.status(item) == "succeeded")
    assert "swordfish" not in admin.page(f"/items/{item}")
