"""The shop's app in this process, its items, and visitors of its dashboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_background import Background

from ..helpers import until
from .shop import create_app


class Visitor:
    """A browser without JavaScript."""

    def __init__(self, app: Flask, role: str | None, root: str = "/background", **options: Any) -> None:
        self.client: FlaskClient = app.test_client(**options)
        self.root = root
        if role is not None:
            assert self.client.get(f"/login/{role}").status_code == 200

    def get(self, path: str = "/", **options: Any) -> TestResponse:
        """Get a page."""
        return self.client.get(self.root + path, **options)

    def page(self, path: str = "/", **options: Any) -> str:
        """Get the HTML of a page that is there."""
        response = self.get(path, **options)
        assert response.status_code == 200, response.text
        return response.text

    def text(self, path: str = "/", **options: Any) -> str:
        """Get the text of a page."""
        return text_of(self.page(path, **options))

    def forms(self, path: str) -> dict[str, dict[str, str]]:
        """Return the hidden fields of each form on a page that acts, by the form's address."""
        return {
            unescape(action): {
                unescape(name): unescape(value)
                for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', body)
            }
            for action, body in re.findall(
                r'<form method="post" action="([^"]+)">(.*?)</form>', self.page(path), re.S
            )
        }

    def submit(self, path: str, part: str, **options: Any) -> TestResponse:
        """Send the one form on a page whose address has this part."""
        ((action, fields),) = [
            (action, fields) for action, fields in self.forms(path).items() if part in action
        ]
        return self.client.post(action, data=fields, **options)


def text_of(html: str) -> str:
    """Return what a reader of a page reads."""
    body = html[html.index("<main") :] if "<main" in html else html
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


class Shop:
    """The app, its Background, and what its items do."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.app = create_app(str(folder), **options)
        self.background: Background = self.app.extensions["background"]

    def visitor(self, role: str | None = "admin", **options: Any) -> Visitor:
        """Return a new visitor; None: one who has not logged in."""
        return Visitor(self.app, role, **options)

    def enqueue(self, name: str, *arguments: object) -> str:
        """Enqueue an item in a request; return its id."""
        item_id: str = self.app.test_client().post(f"/enqueue/{name}", json=arguments).get_json()
        return item_id

    def ended(self, name: str, *arguments: object) -> str:
        """Enqueue an item, and wait for its end."""
        item_id = self.enqueue(name, *arguments)
        until(lambda: self.status(item_id) not in ("queued", "running"))
        return item_id

    def running(self, name: str, *arguments: object) -> str:
        """Enqueue an item, and wait until it runs."""
        item_id = self.enqueue(name, *arguments)
        until(lambda: self.status(item_id) == "running")
        return item_id

    def status(self, item_id: str) -> str | None:
        """Return the status of an item; None if it is not known."""
        with self.app.app_context():
            item = self.background.monitor.get(item_id)
            return None if item is None else str(item.status)

    def go(self) -> None:
        """Let items that wait end."""
        (self.folder / "go").touch()


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Shop]:
    """Makes the app with these settings."""
    return lambda **options: Shop(tmp_path, **options)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """The app."""
    return make_shop()


@pytest.fixture
def admin(shop: Shop) -> Visitor:
    """A visitor who may act."""
    return shop.visitor("admin")
