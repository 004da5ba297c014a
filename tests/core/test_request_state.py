"""The state: the values of the request that an item may see, and none that it must not see."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    abort,
    current_app,
    make_response,
    render_template_string,
    request,
    session,
    url_for,
)
from flask.testing import EnvironBuilder, FlaskClient
from werkzeug.exceptions import SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_background import Background, RequestState, WorkItem, current_item
from flask_background.errors import StateError

from ..helpers import BOUND, Site

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROXY = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example.com",
    "X-Forwarded-Prefix": "/berlin",
}


def behind_proxy(app: Flask) -> None:
    """Let the app trust its proxy."""
    app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
        app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1
    )


def captured(app: Flask, *args: Any, **options: Any) -> RequestState:
    """The state of such a request."""
    with app.test_request_context(*args, **options):
        return RequestState._capture(request._get_current_object())  # type: ignore[attr-defined]


def test_values(app: Flask, background: Background, client: FlaskClient) -> None:
    """The state has the values that the request had, and the item can read them."""
    items: list[WorkItem[Any]] = []
    of_request = {}

    @app.put("/orders/<int:number>")
    def order(number: int) -> str:
        for name in RequestState._fields[:-3]:
            of_request[name] = getattr(request, name)
        of_request["url_root"] = request.url_root
        items.append(background.enqueue(lambda: current_item.state))
        return ""

    headers = {"Host": "example.com", "traceparent": TRACE, "tracestate": "a=1"}
    client.put("/orders/7?page=2", headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    state = items[0].result(BOUND)
    assert state is items[0].state
    assert state == RequestState(
        method="PUT",
        scheme="http",
        host="example.com",
        root_path="",
        path="/orders/7",
        endpoint="order",
        remote_addr="192.0.2.1",
        traceparent=TRACE,
        tracestate="a=1",
        values={},
    )
    assert state._asdict() | {"url_root": state.url_root} == of_request | {
        "traceparent": TRACE,
        "tracestate": "a=1",
        "values": {},
    }


def test_values_behind_a_proxy(site: Site) -> None:
    """Behind a proxy the state has the address that the visitor sees."""
    behind_proxy(site.app)
    items = []

    @site.app.get("/orders")
    def orders() -> str:
        items.append(site.background.enqueue(lambda: None))
        return request.url_root

    root = site.client.get("/orders", headers=PROXY).text
    state = items[0].state
    assert state is not None
    assert state.url_root == root == "https://shop.example.com/berlin/"
    assert (state.scheme, state.host, state.root_path) == ("https", "shop.example.com", "/berlin")
    assert state.remote_addr == "203.0.113.7"
    assert state.path == "/orders"


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_HOST": "example.com:8000"},
        {"HTTP_HOST": "example.com:443", "wsgi.url_scheme": "https"},
        {"HTTP_HOST": "example.com:80"},
        {"HTTP_HOST": "[::1]:5000"},
        {"SCRIPT_NAME": "/shop"},
        {"SCRIPT_NAME": "/shop/"},
        {"HTTP_HOST": None, "SERVER_NAME": "10.0.0.1", "SERVER_PORT": "80"},
        {"HTTP_HOST": None, "SERVER_NAME": "10.0.0.1", "SERVER_PORT": "8080"},
    ],
)
def test_url_root(app: Flask, environ: dict[str, str | None]) -> None:
    """The state's root is the request's, whatever host, port and script root it has."""
    full = EnvironBuilder(app).get_environ() | environ
    with app.request_context({key: value for key, value in full.items() if value is not None}):
        state = RequestState._capture(request._get_current_object())  # type: ignore[attr-defined]
        assert state.url_root == request.url_root


def test_without_a_route(app: Flask, background: Background, client: FlaskClient) -> None:
    """A request that matches no route has a state without an endpoint."""
    items = []

    @app.errorhandler(404)
    def missing(error: Exception) -> tuple[str, int]:
        items.append(background.enqueue(lambda: None))
        return "", 404

    client.get("/nowhere")
    state = items[0].state
    assert state is not None
    assert state.endpoint is None
    assert state.path == "/nowhere"


def test_frozen(app: Flask) -> None:
    """Neither the state nor its values can be changed."""
    state = captured(app)
    with pytest.raises(AttributeError):
        state.path = "/other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        state.values["user"] = 1  # type: ignore[index]


def test_no_secrets(site: Site) -> None:
    """The state has no value of headers, cookies, form, query, session and body."""
    app, background = site.app, site.background
    app.secret_key = "s3cret-key"
    items = []

    @app.post("/pay")
    def pay() -> str:
        session["card"] = "s3cret-session"
        assert request.form["card"] == "s3cret-form"
        items.append(background.enqueue(lambda: None))
        return ""

    client = site.client
    client.set_cookie("card", "s3cret-cookie")
    client.post(
        "/pay?card=s3cret-query",
        data={"card": "s3cret-form"},
        headers={"Authorization": "Bearer s3cret-header", "X-Card": "s3cret-header"},
        environ_overrides={"REMOTE_USER": "s3cret-user"},
    )
    state = items[0].state
    assert state is not None
    plain = tuple(dict(value) if value is state.values else value for value in state)
    for seen in (repr(state), str(state._asdict()), state.url_root, repr(pickle.dumps(plain))):
        assert "s3cret" not in seen
        assert "/pay" in seen or seen == state.url_root
    assert all(isinstance(value, (str, type(None))) for value in state[:-1])


# State processors.


def test_processor(app: Flask, background: Background, client: FlaskClient) -> None:
    """A processor runs in the request, at every enqueue, and the item reads what it returned."""
    calls = []

    @background.state_processor
    def user() -> dict[str, Any]:
        calls.append(request.path)
        return {"user_id": int(request.args["user"]), "roles": ("admin", None), "ratio": 0.5, "on": True}

    assert callable(user)
    items = []

    @app.get("/a")
    def view() -> str:
        items.extend(background.enqueue(lambda: current_item.state) for _ in range(2))
        return ""

    client.get("/a?user=7")
    assert calls == ["/a", "/a"]
    for item in items:
        assert item.result(BOUND) is not None
        assert item.state
        assert item.state.values == {"user_id": 7, "roles": ["admin", None], "ratio": 0.5, "on": True}


def test_processors_add_up(app: Flask, background: Background) -> None:
    """Several processors add to one another, the later ones win; one may have nothing to add."""
    background.state_processor(lambda: {"user": 1, "tenant": "a"})
    background.state_processor(dict)
    background.state_processor(lambda: {"tenant": "b"})
    with app.test_request_context():
        state = background.enqueue(lambda: None).state
    assert state is not None
    assert state.values == {"user": 1, "tenant": "b"}


def test_processor_not_outside_of_a_request(app: Flask, background: Background) -> None:
    """Outside of a request no processor is called."""
    calls = []
    background.state_processor(lambda: calls.append(1) or {})  # type: ignore[func-returns-value]
    with app.app_context():
        background.enqueue(lambda: None)
    assert calls == []


def test_processor_values_are_copies(app: Flask, background: Background) -> None:
    """The item does not see later changes of the view."""
    roles = ["reader"]
    background.state_processor(lambda: {"roles": roles})
    with app.test_request_context():
        item = background.enqueue(lambda: None)
    roles.append("admin")
    assert item.state
    assert item.state.values == {"roles": ["reader"]}


def looped() -> list[Any]:
    """A list that contains itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returned NoneType; return a dict"),
        (["user"], "returned list; return a dict"),
        ({"user": object()}, "returned 'user', which is not JSON"),
        ({"user": b"bytes"}, "returned 'user', which is not JSON"),
        ({"user": {1, 2}}, "returned 'user', which is not JSON"),
        ({"user": float("nan")}, "returned 'user', which is not JSON"),
        ({"user": float("inf")}, "returned 'user', which is not JSON"),
        ({"user": [request]}, "returned 'user', which is not JSON"),
        ({"user": looped()}, "returned 'user', which is not JSON"),
        ({7: "user"}, "returned 7, which is not JSON"),
        ({None: "user"}, "returned None, which is not JSON"),
        ({("a", "b"): "user"}, "which is not JSON"),
    ],
)
def test_processor_refused(app: Flask, background: Background, returned: Any, said: str) -> None:
    """A processor that does not return a dict of JSON raises an error in the view; nothing is enqueued."""

    @background.state_processor
    def who() -> Any:
        return returned

    with app.test_request_context(), pytest.raises(StateError) as caught:
        background.enqueue(lambda: None)
    assert "state processor" in str(caught.value)
    assert "who returned" in str(caught.value)
    assert said in str(caught.value)
    assert background.items() == []


def test_processor_fails(app: Flask, background: Background) -> None:
    """A processor's own error is raised in the view as it is, and nothing is enqueued."""

    @background.state_processor
    def user() -> dict[str, Any]:
        abort(401)

    with app.test_request_context(), pytest.raises(Exception, match="401"):
        background.enqueue(lambda: None)
    assert background.items() == []


# An item that enqueues another.


def test_handed_on(app: Flask, background: Background) -> None:
    """An item, function or coroutine, passes its own state to the items that it enqueues."""
    background.state_processor(lambda: {"user": 7})

    def outer() -> list[WorkItem[Any]]:
        return [background.enqueue(lambda: current_item.state)]

    async def outer_coroutine() -> list[WorkItem[Any]]:
        await asyncio.sleep(0)
        return outer()

    with app.test_request_context("/start"):
        items = [background.enqueue(outer), background.enqueue(outer_coroutine)]
    for item in items:
        (inner,) = item.result(BOUND)
        assert inner.state is item.state
        assert inner.result(BOUND) is item.state
        assert inner.state.path == "/start"
        assert inner.state.values == {"user": 7}


def test_outside_of_a_request(app: Flask, background: Background) -> None:
    """The state of an item that was enqueued outside of a request is empty, and false, and can be read."""
    background.state_processor(lambda: {"user": 7})
    item = background.enqueue(lambda: current_item.state)
    with app.app_context():
        assert not background.enqueue(lambda: current_item.state).result(BOUND)
    state = item.result(BOUND)
    assert state is item.state
    assert state == RequestState()
    assert not state
    assert (state.method, state.path, state.url_root, state.remote_addr) == ("", "", "", None)
    assert state.values == {}
    assert state.values.get("user") is None
    with app.test_request_context():
        assert background.enqueue(lambda: None).state


def test_request_inside_an_item_wins(app: Flask, background: Background) -> None:
    """An item that makes a request of its own, with a test client, enqueues with that request's state."""

    def outer() -> list[WorkItem[Any]]:
        with current_app.test_request_context("/inner"):
            return [background.enqueue(lambda: None)]

    with app.test_request_context("/outer"):
        item = background.enqueue(outer)
    (inner,) = item.result(BOUND)
    assert inner.state
    assert inner.state.path == "/inner"


# URLs.


@pytest.fixture
def link(site: Site) -> Callable[..., str]:
    """Makes a request whose item builds a URL, and returns that."""
    items: list[WorkItem[str]] = []

    @site.app.get("/links/<name>")
    def links(name: str) -> Response:
        items.append(site.background.enqueue(lambda: url_for("links", name=name, _external=True)))
        return make_response(url_for("links", name=name, _external=True))

    def build(**options: Any) -> str:
        response = site.client.get("/links/a", **options)
        assert response.status_code == 200, response.text
        of_item = items.pop().result(BOUND)
        assert of_item == response.text, "the request itself builds another URL"
        return of_item

    return build


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://localhost/links/a"),
        ({"base_url": "http://example.com:8000/"}, "http://example.com:8000/links/a"),
        ({"base_url": "https://example.com:443/"}, "https://example.com/links/a"),
        ({"base_url": "https://example.com/shop"}, "https://example.com/shop/links/a"),
        ({"base_url": "http://[::1]:5000/"}, "http://[::1]:5000/links/a"),
    ],
)
def test_url(link: Callable[..., str], options: dict[str, Any], url: str) -> None:
    """An item builds the URLs that its request would build: host, port, scheme and script root."""
    assert link(**options) == url


def test_url_behind_a_proxy(site: Site, link: Callable[..., str]) -> None:
    """Behind a proxy an item's URLs are those that the visitor can reach."""
    behind_proxy(site.app)
    assert link(headers=PROXY) == "https://shop.example.com/berlin/links/a"


@pytest.mark.parametrize("early", [True, False])
def test_url_server_name_wins(make_site: Callable[..., Site], early: bool) -> None:
    """SERVER_NAME, if set, is the host of an item's URLs, with or without a request."""
    settings = {"SERVER_NAME": "shop.test", "APPLICATION_ROOT": "/x", "PREFERRED_URL_SCHEME": "https"}
    site = make_site(**(settings if early else {}))
    site.app.config.update(settings)

    @site.app.get("/")
    def index() -> str:
        return ""

    def build() -> str:
        return url_for("index", _external=True)

    with site.app.test_request_context("/", base_url="http://evil.test/"):
        item = site.background.enqueue(build)
    assert item.result(BOUND) == "https://shop.test/x/"
    assert site.background.enqueue(build).result(BOUND) == "https://shop.test/x/"


def test_url_trusted_hosts(site: Site) -> None:
    """A Host header that TRUSTED_HOSTS does not allow builds no URL in an item either."""
    app, background = site.app, site.background
    app.config["TRUSTED_HOSTS"] = [".example.com"]
    items: list[WorkItem[str]] = []

    @app.get("/")
    def index() -> str:
        return ""

    @app.before_request
    def early() -> None:
        # Flask answers 400 for such a host, but only after these functions.
        items.append(background.enqueue(lambda: url_for("index", _external=True)))

    assert site.client.get("/", headers={"Host": "www.example.com"}).status_code == 200
    assert items.pop().result(BOUND) == "http://www.example.com/"
    assert site.client.get("/", headers={"Host": "evil.test"}).status_code == 400
    assert isinstance(items.pop().exception(BOUND), SecurityError)


def test_url_without_a_request(app: Flask, background: Background) -> None:
    """Without a request and SERVER_NAME url_for raises Flask's own error."""

    @app.get("/")
    def index() -> str:
        return ""

    error = background.enqueue(lambda: url_for("index")).exception(BOUND)
    assert isinstance(error, RuntimeError)
    assert "SERVER_NAME" in str(error)


def test_url_options(app: Flask, background: Background) -> None:
    """url_for takes its options in an item as in a view, and templates can use it."""

    @app.get("/p/<name>")
    def page(name: str) -> str:
        return ""

    def build() -> list[str]:
        return [
            url_for("page", name="a b", q="1 2", _anchor="top"),
            url_for("page", name="a", _external=False),
            url_for("page", name="a", _scheme="https", _external=True),
            url_for("static", filename="style.css"),
            render_template_string("{{ url_for('page', name='t') }}"),
        ]

    with app.test_request_context(base_url="http://example.com/shop"):
        item = background.enqueue(build)
    assert item.result(BOUND) == [
        "http://example.com/shop/p/a%20b?q=1+2#top",
        "/shop/p/a",
        "https://example.com/shop/p/a",
        "http://example.com/shop/static/style.css",
        "http://example.com/shop/p/t",
    ]


def test_url_of_what_is_missing(app: Flask, background: Background) -> None:
    """An endpoint that does not exist is Flask's BuildError, which the app may handle."""
    app.url_build_error_handlers.append(lambda error, endpoint, values: f"<{endpoint}>")
    with app.test_request_context():
        item = background.enqueue(lambda: url_for("nowhere"))
    assert item.result(BOUND) == "<nowhere>"


@pytest.fixture
def hosts_site() -> Site:
    """An app whose routes belong to hosts."""
    app = Flask("hosts", host_matching=True, static_host="static.test")
    return Site(app, Background(app))


def test_url_with_host_matching(hosts_site: Site) -> None:
    """An app with host matching builds URLs of other hosts in an item, as in a view."""

    @hosts_site.app.get("/", host="blog.test")
    def blog() -> str:
        return ""

    with hosts_site.app.test_request_context("/", base_url="https://shop.test/"):
        of_view = url_for("blog", _external=True)
        item = hosts_site.background.enqueue(lambda: url_for("blog", _external=True))
    assert item.result(BOUND) == of_view == "https://blog.test/"


def test_one_state_for_a_request(app: Flask, background: Background, client: FlaskClient) -> None:
    """The items of a request share its state; those of another have another."""
    items = []

    @app.post("/orders/<int:number>")
    def order(number: int) -> str:
        items.extend(background.enqueue(lambda: None) for _ in range(2))
        return ""

    client.post("/orders/1")
    client.post("/orders/2")
    first, second, third, fourth = [item.state for item in items]
    assert first is second
    assert third is fourth
    assert first is not None
    assert third is not None
    assert (first.path, third.path) == ("/orders/1", "/orders/2")


def test_processors_are_asked_at_every_enqueue(site: Site) -> None:
    """The values of state processors are the item's own, though the rest of the state is the request's."""
    numbers = iter(range(10))
    site.background.state_processor(lambda: {"number": next(numbers)})
    with site.app.test_request_context("/orders"):
        states = [site.background.enqueue(lambda: None).state for _ in range(2)]
    assert [state and (state.path, state.values) for state in states] == [
        ("/orders", {"number": 0}),
        ("/orders", {"number": 1}),
    ]


def test_state_of_an_inner_request(make_site: Callable[..., Site]) -> None:
    """A request that is passed on to another app with the same environ has there a state of its own."""
    outer, inner = make_site("outer"), make_site("inner")
    items = []

    @inner.app.get("/orders")
    def orders() -> str:
        items.append(inner.background.enqueue(lambda: None))
        return ""

    @outer.app.get("/shop/orders")
    def shop() -> Any:
        items.append(outer.background.enqueue(lambda: None))
        request.environ.update(SCRIPT_NAME="/shop", PATH_INFO="/orders")
        return inner.app.wsgi_app

    outer.client.get("/shop/orders")
    assert [item.state and (item.state.root_path, item.state.path) for item in items] == [
        ("", "/shop/orders"),
        ("/shop", "/orders"),
    ]


def test_state_before_the_routing(app: Flask, background: Background) -> None:
    """An item that is enqueued before the routing leaves no other item of the request without an endpoint."""
    app.add_url_rule("/orders", "orders", lambda: "")
    with app.test_request_context("/orders"):
        rule, request.url_rule = request.url_rule, None
        early = background.enqueue(lambda: None).state
        request.url_rule = rule
        late = background.enqueue(lambda: None).state
    assert [state and state.endpoint for state in (early, late)] == [None, "orders"]
