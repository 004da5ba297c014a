"""The dashboard lets in whom ``allow`` lets in, and nobody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect

from flask_background import Background
from flask_background.dashboard import create_dashboard
from flask_background.errors import ConfigurationError

from .conftest import Shop

PATHS = ("/", "/items", "/items/0123", "/tasks", "/schedules", "/processes", "/confirm/retry")
ACTS = ("/items/0123/retry", "/act/retry", "/schedules/run", "/pauses/pause")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("wrong", [None, "admin", True, {"admin"}])
def test_allow_is_required(wrong: Any, debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a function that says who may look, there is no dashboard, in debug as in production."""
    monkeypatch.setenv("FLASK_DEBUG", str(int(debug)))
    with pytest.raises(ConfigurationError, match=r"create_dashboard.*allow.*pass a function"):
        create_dashboard(allow=wrong)
    with pytest.raises(ConfigurationError, match="needs allow"):
        create_dashboard()


@pytest.mark.parametrize("path", PATHS)
def test_strangers_learn_nothing(shop: Shop, path: str) -> None:
    """None is a 403 without data, a response is that response, and abort() is its error."""
    refused = shop.visitor("nobody").get(path)
    assert refused.status_code == 403
    assert "shop" not in refused.text
    assert "journal" not in refused.text
    sent = shop.visitor(None).get(path)
    assert sent.status_code == 302
    assert sent.location == "/login"
    assert "Set-Cookie" not in refused.headers


@pytest.mark.parametrize("path", ACTS)
@pytest.mark.parametrize("role", ["read", "nobody", None])
def test_others_than_admins_cannot_act(shop: Shop, path: str, role: str | None) -> None:
    """Whoever is no admin is refused before anything else is looked at; nothing answers GET."""
    answer = shop.visitor(role).client.post(f"/background{path}", data={"token": "any"})
    assert answer.status_code == (302 if role is None else 403)
    assert shop.visitor(role).get(path).status_code in (404, 405)


def test_readers_see_no_buttons(shop: Shop) -> None:
    """A visitor who may only look sees every page, and no form that acts."""
    failed = shop.ended("bounce", "no such address")
    reader = shop.visitor("read")
    for path in ("/", "/items", f"/items/{failed}", "/tasks", "/schedules", "/processes"):
        page = reader.page(path)
        assert 'method="post"' not in page
        assert "/confirm/" not in page
        assert "read only" in page
    refused = reader.get("/confirm/retry?status=failed")
    assert refused.status_code == 403
    assert "You may look, but not act." in refused.text


@pytest.mark.parametrize(
    "answer",
    [True, False, 1, "", "Admin", "root", b"admin", ["admin"], ("admin", 3), ("root", "ann"), (), object()],
)
def test_other_answers_are_errors(answer: Any, make_shop: Callable[..., Shop]) -> None:
    """An answer that is none of the allowed ones is an error that says so, and never access."""
    shop = make_shop(allow=lambda: answer)
    visitor = shop.visitor(None)
    assert visitor.get().status_code == 500
    shop.app.testing = True
    with pytest.raises(ConfigurationError, match=r'allow returned .*nobody was let in: return "admin"'):
        visitor.get()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("admin", 200),
        ("read", 200),
        (("read", "ann"), 200),
        (None, 403),
        (Response("who are you?", 401), 401),
        (redirect("/login"), 302),
    ],
)
def test_answers(answer: Any, status: int, make_shop: Callable[..., Shop]) -> None:
    """Roles, roles with names, nobody and responses."""
    assert make_shop(allow=lambda: answer).visitor(None).get().status_code == status


def test_allow_may_abort(make_shop: Callable[..., Shop]) -> None:
    """An HTTP error that ``allow`` raises is the answer, and says nothing of the app."""
    answer = make_shop(allow=lambda: abort(401)).visitor(None).get()
    assert answer.status_code == 401
    assert "shop" not in answer.text


def test_allow_is_asked_each_time(make_shop: Callable[..., Shop]) -> None:
    """A visitor whose role is taken away is out at the next request; files that hold no data are for all."""
    roles = ["admin", "read", None]
    visitor = make_shop(allow=lambda: roles.pop(0)).visitor(None)
    assert "admin" in visitor.page()
    assert "read only" in visitor.page()
    assert visitor.get().status_code == 403
    for name in ("dashboard.css", "dashboard.js", "icon.svg"):
        assert visitor.get(f"/assets/{name}").status_code == 200
    assert visitor.get("/assets/../signing.py").status_code == 404
    assert visitor.get("/assets/page.html").status_code == 404


def test_app_without_secret_key(make_shop: Callable[..., Shop]) -> None:
    """An app without a secret key has no dashboard, and the error says what to set."""
    shop = make_shop(allow=lambda: "admin", SECRET_KEY=None)
    shop.app.testing = True
    with pytest.raises(ConfigurationError, match="set SECRET_KEY"):
        shop.visitor(None).get()


def test_app_without_background() -> None:
    """An app without a Background has no dashboard, and the error says what to call."""
    app = Flask("shop")
    app.config.update(SECRET_KEY="of the tests", TESTING=True)
    app.register_blueprint(create_dashboard(allow=lambda: "admin"))
    with pytest.raises(ConfigurationError, match=r"call Background\(app\)"):
        app.test_client().get("/")


def test_actions_are_logged_with_the_name(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The log says who has acted."""
    failed = shop.ended("bounce", "no such address")
    with caplog.at_level(logging.INFO):
        shop.visitor("admin").submit(f"/items/{failed}", "/retry")
    assert any("ann" in record.getMessage() and "retried" in record.getMessage() for record in caplog.records)


def test_background_may_be_initialised_later(tmp_path: Any) -> None:
    """The blueprint may be registered before the app has its Background."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["SECRET_KEY"] = "of the tests"
    app.register_blueprint(create_dashboard(allow=lambda: "read"), url_prefix="/background")
    Background().init_app(app)
    assert app.test_client().get("/background/").status_code == 200
