"""Forms that act come from the dashboard's own pages, or do nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest import mock

import pytest
from itsdangerous import URLSafeTimedSerializer

from flask_background.dashboard import signing

from .conftest import Shop, Visitor

SELF = "http://localhost"


@pytest.fixture
def failed(shop: Shop) -> str:
    """An item that may be retried."""
    return shop.ended("bounce", "no such address")


def send(admin: Visitor, failed: str, fields: dict[str, str] | None = None, **headers: str) -> int:
    """Send the form that retries the item, and return the status of the answer."""
    page = f"/items/{failed}"
    (own,) = [fields for action, fields in admin.forms(page).items() if action.endswith("/retry")]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return admin.client.post(
        f"/background{page}/retry", data=own if fields is None else fields, headers=named
    ).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://sub.localhost"},
        {"Sec_Fetch_Site": "cross-site", "Origin": SELF},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "http://[broken"},
        {"Origin": ""},
    ],
)
def test_other_sites_are_refused(shop: Shop, admin: Visitor, failed: str, headers: dict[str, str]) -> None:
    """A form with the right token that another site has sent is refused, and does nothing."""
    assert send(admin, failed, **headers) == 403
    assert shop.status(failed) == "failed"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": SELF}, {"Origin": "http://localhost:80"}, {"Sec_Fetch_Site": "same-origin"}],
)
def test_own_pages_are_not(admin: Visitor, failed: str, headers: dict[str, str]) -> None:
    """A form from the page itself acts; some browsers and programs say nothing of where they come from."""
    assert send(admin, failed, **headers) == 303


def test_a_token_is_needed(shop: Shop, admin: Visitor, failed: str) -> None:
    """Without a token, or with a made-up one, nothing is done."""
    for fields in ({}, {"token": ""}, {"token": "x"}, {"token": "WyIiLG51bGxd.aaaaaa.bbbb"}):
        assert send(admin, failed, fields) == 403
    other = URLSafeTimedSerializer("another key", salt="flask_background.dashboard.form")
    assert send(admin, failed, {"token": str(other.dumps(["x" * 24, "ann"]))}) == 403
    notice = URLSafeTimedSerializer("of the tests", salt="flask_background.dashboard.notice")
    assert send(admin, failed, {"token": str(notice.dumps(["x" * 24, "ann"]))}) == 403
    assert shop.status(failed) == "failed"


def test_a_token_is_one_visitors(shop: Shop, admin: Visitor, failed: str) -> None:
    """The token of another visitor's page, who may be an admin too, is refused."""
    another = shop.visitor("admin")
    fields = next(iter(another.forms(f"/items/{failed}").values()))
    assert send(admin, failed, fields) == 403
    assert "another visitor" in admin.client.post(f"/background/items/{failed}/retry", data=fields).text


def test_a_token_ends_with_the_name(make_shop: Callable[..., Shop]) -> None:
    """A token does not outlive a change of the visitor's name in the same browser."""
    names = ["ann"]
    shop = make_shop(allow=lambda: ("admin", names[0]))
    failed = shop.ended("bounce", "no such address")
    visitor = shop.visitor(None)
    ((action, fields),) = [
        (action, fields) for action, fields in visitor.forms(f"/items/{failed}").items() if "retry" in action
    ]
    names[0] = "bob"
    assert visitor.client.post(action, data=fields).status_code == 403
    names[0] = "ann"
    assert visitor.client.post(action, data=fields).status_code == 303


def test_a_token_expires(admin: Visitor, failed: str) -> None:
    """A form that was open for too long says so, and does nothing."""
    fields = next(iter(admin.forms(f"/items/{failed}").values()))
    with mock.patch.object(signing, "FORM_AGE", -1):
        answer = admin.client.post(f"/background/items/{failed}/retry", data=fields)
    assert answer.status_code == 403
    assert "too old" in answer.text


def test_tokens_outlive_a_change_of_the_key(shop: Shop, admin: Visitor, failed: str) -> None:
    """A form of the time before the key was changed is taken while the old key is a fallback."""
    fields = next(iter(admin.forms(f"/items/{failed}").values()))
    shop.app.config.update(SECRET_KEY="a new one", SECRET_KEY_FALLBACKS=["of the tests"])
    answer = admin.client.post(f"/background/items/{failed}/retry", data=fields)
    assert answer.status_code == 303


def test_cookie(shop: Shop) -> None:
    """The cookie is set once, for admins, under the dashboard's own path, and no script can read it."""
    admin = shop.visitor("admin")
    (cookie,) = [
        line for line in admin.get().headers.getlist("Set-Cookie") if line.startswith("background_csrf")
    ]
    for part in ("HttpOnly", "SameSite=Lax", "Path=/background/"):
        assert part in cookie
    assert "Secure" not in cookie
    assert "background_csrf" not in str(admin.get().headers)
    assert "background_csrf" not in str(shop.visitor("read").get().headers)
    assert "Secure" in str(
        shop.visitor("admin").get(base_url="https://localhost").headers.getlist("Set-Cookie")
    )


def test_notice(shop: Shop, admin: Visitor, failed: str) -> None:
    """The message after an action is shown once and for a minute, and nobody else can write one."""
    answer = admin.submit(f"/items/{failed}", "/retry")
    assert answer.status_code == 303
    assert "The item was queued again." in admin.client.get(answer.location).text
    token = re.search("notice=([^&]+)", answer.location)
    assert token
    forged = URLSafeTimedSerializer("another key", salt="flask_background.dashboard.notice")
    assert "pay here" not in admin.page(f"/?notice={forged.dumps('pay here')}")
    assert 'class="notice"' not in admin.page("/?notice=hello")
    with mock.patch.object(signing, "NOTICE_AGE", -1):
        assert "The item was queued again." not in admin.client.get(answer.location).text


def test_beside_another_protection(shop: Shop, admin: Visitor, failed: str) -> None:
    """Forms carry the token of the app's own protection too, as that of Flask-WTF, under its name."""

    def foreign() -> str:
        return 'a "token" of the app'

    shop.app.jinja_env.globals["csrf_token"] = foreign
    shop.app.config["WTF_CSRF_FIELD_NAME"] = "csrf"
    for fields in admin.forms(f"/items/{failed}").values():
        assert fields["csrf"] == foreign()
        assert fields["token"]


@pytest.mark.parametrize("path", ["/", "/items", "/nope", "/items/0123", "/confirm/retry?x=1"])
def test_headers(shop: Shop, path: str) -> None:
    """Each answer keeps scripts, frames and caches out, errors and refusals too."""
    for role in ("admin", "read", "nobody", None):
        answer = shop.visitor(role).get(path)
        if path == "/nope":
            assert answer.status_code == 404  # no view of the dashboard
            continue
        policy = answer.headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"


def test_pages_keep_to_the_policy(shop: Shop, admin: Visitor, failed: str) -> None:
    """No page has a style or a script of its own, or takes anything from elsewhere."""
    for path in ("/", "/items", f"/items/{failed}", "/tasks", "/schedules", "/processes", "/confirm/retry"):
        page = admin.page(path)
        assert re.findall(r"<script(?! src=\"/background/assets/)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
        assert re.findall(r"(?:src|href|action)=\"(?!/background/|#)[^\"]*\"", page) == []
