"""The dashboard lives wherever an app puts it, and every link on every page leads to a page of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response

from flask_background import Background
from flask_background.dashboard import create_dashboard

from .conftest import Shop, Visitor


def crawl(visitor: Visitor, root: str, **options: Any) -> dict[str, str]:
    """Follow every link from the first page; return the pages by their address."""
    pages: dict[str, str] = {}
    waiting = [root]
    while waiting:
        address = waiting.pop()
        if address in pages or len(pages) > 300:
            continue
        answer = visitor.client.get(address, **options)
        assert answer.status_code == 200, (address, answer.text)
        pages[address] = answer.text if answer.mimetype == "text/html" else ""
        for link in re.findall(r'(?:href|src)="([^"#]+)"', pages[address]):
            link = unescape(link)
            assert link.startswith(root), (address, link)
            waiting.append(re.sub(r"after=[^&]+", "", link) if link.count("after=") > 1 else link)
        for action in re.findall(r'action="([^"]+)"', pages[address]):
            assert action.startswith(root)
    return pages


def test_crawl(shop: Shop, admin: Visitor) -> None:
    """Every link leads to a page, and every page has a title, a heading and the same links."""
    shop.ended("bounce", "no such address")
    shop.ended("welcome", "Ada")
    shop.ended("resize")
    pages = crawl(admin, "/background/")
    html = {address: page for address, page in pages.items() if page}
    assert len(html) > 25
    for page in html.values():
        assert len(re.findall("<h1", page)) == 1
        assert "<title>" in page
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))


def make_app(folder: Path, **options: Any) -> Flask:
    """An app with a Background and no dashboard yet."""
    app = Flask("shop", instance_path=str(folder), **options)
    app.config["SECRET_KEY"] = "of the tests"
    Background(app)
    return app


def test_twice(tmp_path: Path) -> None:
    """Two dashboards of one app, for two kinds of visitors, do not meet."""
    app = make_app(tmp_path)
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix="/ops", name="ops")
    app.register_blueprint(create_dashboard(allow=lambda: "read"), url_prefix="/ops/view", name="view")
    visitor = Visitor(app, None)
    assert all("read only" not in page for page in crawl(visitor, "/ops/").values() if page)
    assert all("read only" in page for page in crawl(visitor, "/ops/view/").values() if page)


def test_within_another_blueprint(tmp_path: Path) -> None:
    """A blueprint of the app may hold the dashboard, and put itself before it."""
    app = make_app(tmp_path)
    ops = Blueprint("ops", __name__, url_prefix="/ops")
    ops.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix="/background")
    app.register_blueprint(ops)
    assert len(crawl(Visitor(app, None), "/ops/background/")) > 10


def test_subdomain(tmp_path: Path) -> None:
    """The dashboard may have a subdomain of its own."""
    app = make_app(tmp_path, subdomain_matching=True)
    app.config["SERVER_NAME"] = "shop.example"
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), subdomain="ops")
    visitor = Visitor(app, None)
    assert len(crawl(visitor, "/", base_url="http://ops.shop.example")) > 10
    assert visitor.client.get("/", base_url="http://shop.example").status_code == 404


def test_below_a_prefix_of_the_server(tmp_path: Path) -> None:
    """Links have the prefix that the app is mounted under, or that its proxy names."""
    app = make_app(tmp_path)
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix="/background")
    mounted = DispatcherMiddleware(Response("root"), {"/shop": app.wsgi_app})
    app.wsgi_app = mounted  # type: ignore[method-assign]
    assert len(crawl(Visitor(app, None), "/shop/background/")) > 10
    answer = app.test_client().get("/shop/background/")
    assert "Path=/shop/background/" in answer.headers["Set-Cookie"]


def test_application_root(tmp_path: Path) -> None:
    """An app whose root is elsewhere has its links and its cookie there."""
    app = make_app(tmp_path)
    app.config["APPLICATION_ROOT"] = "/shop"
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix="/background")
    answer = app.test_client().get("/background/")
    assert 'href="/shop/background/items"' in answer.text
    assert "Path=/shop/background/" in answer.headers["Set-Cookie"]


def test_behind_a_proxy(shop: Shop) -> None:
    """Behind a proxy that speaks https, forms are taken, with ProxyFix and without."""
    failed = shop.ended("bounce", "no such address")
    admin = shop.visitor("admin")
    ((action, fields),) = [pair for pair in admin.forms(f"/items/{failed}").items() if "/retry" in pair[0]]
    answer = admin.client.post(action, data=fields, headers={"Origin": "https://localhost"})
    assert answer.status_code == 303
    shop.app.wsgi_app = ProxyFix(shop.app.wsgi_app, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
    names = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example", "X-Forwarded-Prefix": "/eu"}
    page = admin.page("/", headers=names)
    assert 'href="/eu/background/items"' in page
    refused = admin.client.post(action, data=fields, headers={**names, "Origin": "https://localhost"})
    assert refused.status_code == 403


def test_app_with_ways_of_its_own(make_shop: Callable[..., Shop]) -> None:
    """An app's own Jinja settings, context processors and checks before requests change no page."""
    shop = make_shop(allow=lambda: "admin", WTF_CSRF_FIELD_NAME="unused")
    shop.app.select_jinja_autoescape = lambda filename: False  # type: ignore[method-assign,assignment]
    shop.app.jinja_options = {"variable_start_string": "((", "variable_end_string": "))"}

    @shop.app.context_processor
    def shadow() -> dict[str, object]:
        return {"visit": "shadow", "layout": "shadow", "url_for": None}

    @shop.app.before_request
    def refuse() -> None:
        if "blocked" in request.args:
            abort(418)

    item = shop.ended("bounce", "<b>bold</b>")
    visitor = shop.visitor(None)
    assert "&lt;b&gt;bold&lt;/b&gt;" in visitor.page(f"/items/{item}")
    assert visitor.get("/?blocked").status_code == 418


@pytest.mark.parametrize("prefix", ["/background", "/a/b/c", "/späte sachen"])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    """Any prefix will do."""
    app = make_app(tmp_path)
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix=prefix)
    answer = app.test_client().get(f"{prefix}/")
    assert answer.status_code == 200
    link = re.search(r'href="([^"]+)" aria-current="page"', answer.text)
    assert link
    assert app.test_client().get(link[1]).status_code == 200
