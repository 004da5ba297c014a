"""An app with a dashboard, in the test's process or under gunicorn, and items that are hard to show."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, redirect, request, session

from flask_background import Background, current_item
from flask_background.dashboard import create_dashboard

#: Texts that try to be more than text: markup, scripts, templates, control characters, directions, length.
HOSTILE = (
    "<script>window.hurt = 1</script>",
    "\"><img src=x onerror='window.hurt = 1'>",
    "{{ 7 * 191 }}{% raise %}",
    "</title></textarea></pre><h1>not ours</h1>",
    "user\u202egnp.exe\u2066",
    "bell\x07 null\x00 escape\x1b[31m",
    "']();window.hurt=1//",
    "Z\u0351\u036b\u0343\u036aA" * 30,
    "W" * 5_000,
)


class Failed(Exception):
    """An error with a text of the item's choice."""


def create_app(folder: str | None = None, allow: Any = None, **settings: Any) -> Flask:
    """Make the app; all of its files are in this folder."""
    place = Path(folder or os.environ["SHOP"])
    app = Flask("shop", instance_path=str(place))
    app.config.update(SECRET_KEY="of the tests", BACKGROUND_JOURNAL=place / "journal", BACKGROUND_WORKERS=2)
    app.config.update(settings)
    background = Background(app)

    @background.task(durable=True, name="mail.welcome", describe=lambda name: f"welcome {name}")
    def welcome(name: str) -> None:
        pass

    @background.task(durable=True, name="mail.bounce", describe=lambda text: text)
    def bounce(text: str) -> None:
        raise Failed(text)

    @background.task(durable=True, name="photos.resize", max_attempts=2, backoff=0)
    def resize() -> None:
        raise ConnectionRefusedError("the image server does not answer")

    @background.task(durable=True, name="reports.count", describe=lambda total: f"count to {total}")
    def count(total: int) -> None:
        """Report progress until a file is there, or the item is to end."""
        while not (place / "go").exists():
            done = len((place / "done").read_text()) if (place / "done").exists() else 1
            current_item.report_progress(done, total, "page <b>one</b>")
            current_item.token.raise_if_cancelled()
            time.sleep(0.01)

    @background.task(name="shop.cache")
    def cache() -> None:
        while not (place / "go").exists():
            current_item.token.raise_if_cancelled()
            time.sleep(0.01)

    @background.periodic(seconds=86_400, name="shop.tidy")
    def tidy() -> None:
        pass

    tasks = {"welcome": welcome, "bounce": bounce, "resize": resize, "count": count, "cache": cache}

    @app.post("/enqueue/<name>")
    def enqueue(name: str) -> Response:
        item = tasks[name].enqueue(*request.get_json())  # type: ignore[attr-defined]
        return jsonify(item.id)

    @app.get("/pid")
    def pid() -> Response:
        return jsonify(pid=os.getpid())

    @app.get("/login/<role>")
    def login(role: str) -> str:
        session["role"] = role
        return "welcome"

    @app.get("/login")
    def ask_for_login() -> str:
        return "Please log in."

    def role_of_visitor() -> Any:
        role = session.get("role")
        return (role, "ann") if role in ("admin", "read") else redirect("/login") if role is None else None

    app.register_blueprint(create_dashboard(allow=allow or role_of_visitor), url_prefix="/background")
    return app
