"""``when="response"``: after the response was sent, not before; not at all if the view failed."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    abort,
    after_this_request,
    has_request_context,
    request,
    send_file,
    stream_with_context,
)
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app
from werkzeug.wsgi import FileWrapper

from flask_background import Background, Status, Task, WorkItem, signals
from flask_background.app_state import state_of
from flask_background.errors import ItemCancelledError, QueueFull, Stopping

from ..helpers import BOUND, Site, lines, receiving

Enqueue = Callable[[], WorkItem[int]]


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """An app with one thread for items."""
    return make_site(BACKGROUND_WORKERS=1)


@pytest.fixture
def items() -> list[WorkItem[int]]:
    """The items that the views have enqueued."""
    return []


@pytest.fixture
def enqueue(background: Background, items: list[WorkItem[int]]) -> Enqueue:
    """Enqueues an item that waits for the response."""
    task = background.task(name="shop.work", when="response")(lambda: 42)

    def enqueue() -> WorkItem[int]:
        items.append(task.enqueue())
        return items[-1]

    return enqueue


def started(item: WorkItem[Any]) -> bool:
    """Whether an item does not wait: a thread runs items in the order in which they may start."""
    app = item._host.app  # type: ignore[attr-defined]
    with app.app_context():
        assert app.extensions["background"].enqueue(abs, -1).result(BOUND) == 1
    return item.status is not Status.QUEUED


def serve(app: Any, path: str = "/") -> Iterator[None]:
    """Answer a request as a server does, with a pause before the body, and one before it is closed."""
    environ = EnvironBuilder(path).get_environ()
    body = app(environ, lambda status, headers, exc_info=None: io.BytesIO().write)
    yield
    for _ in body:
        yield
    if hasattr(body, "close"):
        body.close()
    yield


def expect_held_until_closed(app: Any, items: list[WorkItem[int]], path: str = "/") -> None:
    """The items of a request start when its body is closed, and in no pause before that."""
    steps = list(pauses(app, path, items))
    assert items
    assert steps[:-1] == [False] * (len(steps) - 1)
    assert len(steps) >= 2
    for item in items:
        assert item.result(BOUND) == 42


def pauses(app: Any, path: str, items: list[WorkItem[int]]) -> Iterator[bool]:
    """For each pause of a server, whether an item has started."""
    for _ in serve(app, path):
        yield any(started(item) for item in items)


def test_after_the_response(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """An item waits, queued, until the server has closed the response, and then runs."""

    @app.get("/")
    def view() -> str:
        assert enqueue().status is Status.QUEUED
        return "body"

    expect_held_until_closed(app, items)


def test_error_at_the_close(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """Items start even if code that closes the response raises."""

    @app.get("/")
    def view() -> Response:
        enqueue()
        enqueue()
        response = Response("body")
        response.call_on_close(lambda: 1 / 0)
        return response

    with pytest.raises(ZeroDivisionError):
        list(serve(app))
    assert [item.result(BOUND) for item in items] == [42, 42]


def test_item_that_cannot_start(
    app: Flask,
    background: Background,
    items: list[WorkItem[int]],
    enqueue: Enqueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One item that cannot be started holds up no other item of the response."""
    backend = state_of(app).backend
    start_held = backend.start_held

    def refuse_first(item: WorkItem[int]) -> None:
        if item is items[0]:
            backend.cancel_held(item, "the test refuses it")
            raise RuntimeError("can't start new thread")
        start_held(item)

    monkeypatch.setattr(backend, "start_held", refuse_first)

    @app.get("/")
    def view() -> str:
        enqueue()
        enqueue()
        return "body"

    with pytest.raises(RuntimeError, match="new thread"):
        list(serve(app))
    assert items[1].result(BOUND) == 42


def test_after_a_file(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, tmp_path: Path) -> None:
    """The item of a view that sends a file waits too, also if the server sends the file itself."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    class Wrapper:
        def __init__(self, file: Any, size: int = 8192) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            yield self.file.read()

        def close(self) -> None:
            self.file.close()

    @app.get("/")
    def view() -> Response:
        enqueue()
        request.environ["wsgi.file_wrapper"] = Wrapper
        return send_file(tmp_path / "file")

    expect_held_until_closed(app, items)


def test_after_a_replaced_response(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """The item waits too if after_request replaces the view's response."""

    @app.after_request
    def replace(response: Response) -> Response:
        response.close()
        return Response("another")

    @app.get("/")
    def view() -> str:
        enqueue()
        return "body"

    expect_held_until_closed(app, items)


def test_after_a_stream(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """The item waits too if the response is generated piece by piece."""

    @app.get("/")
    def view() -> Response:
        enqueue()
        return Response(iter(["one", "two", "three"]))

    expect_held_until_closed(app, items)


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_enqueued_in_a_stream(
    app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, early: bool, passthrough: bool
) -> None:
    """Items that a stream enqueues wait for its end, whether the view itself has enqueued or not."""

    @app.get("/")
    def view() -> Response:
        def lines() -> Iterator[bytes]:
            yield b"one"
            enqueue()
            yield b"two"
            yield b"three"

        if early:
            enqueue()
        return Response(stream_with_context(lines()), direct_passthrough=passthrough)

    expect_held_until_closed(app, items)
    assert len(items) == 1 + early


def test_enqueued_in_a_stream_that_breaks(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """A stream that breaks ends as well: the item starts when the server closes the response."""

    @app.get("/")
    def view() -> Response:
        def lines() -> Iterator[bytes]:
            yield b"one"
            enqueue()
            raise OSError("the source broke")

        return Response(stream_with_context(lines()))

    response = app.test_client().get("/", buffered=False)
    with pytest.raises(OSError, match="broke"):
        b"".join(response.iter_encoded())
    assert not started(items[0])
    response.close()
    assert items[0].result(BOUND) == 42


def test_enqueued_when_all_was_sent(app: Flask, enqueue: Enqueue) -> None:
    """An item that is enqueued in the request's context after the response was sent starts at once."""
    app.add_url_rule("/", view_func=lambda: "body")
    with app.test_client() as client:  # it keeps the request's context
        client.get("/").close()
        assert has_request_context()
        assert enqueue().result(BOUND) == 42


@pytest.mark.parametrize("wrapper", [FileWrapper, lambda file, size=0: FileWrapper(file, size)])
def test_files_reach_the_server_as_they_are(app: Flask, tmp_path: Path, wrapper: Any) -> None:
    """If no item waits, the server gets its own file wrapper, and can have the system send the file."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    app.add_url_rule("/", view_func=lambda: send_file(path))
    environ = EnvironBuilder("/").get_environ() | {"wsgi.file_wrapper": wrapper}
    body: Any = app(environ, lambda status, headers, exc_info=None: io.BytesIO().write)
    assert isinstance(body, FileWrapper)
    body.close()


@pytest.mark.parametrize("hook", ["before_request", "after_request", "teardown_request", "after_this"])
def test_enqueued_in_hooks(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, hook: str) -> None:
    """Items that are enqueued before or after the view wait for the response as well."""

    @app.get("/")
    def view() -> str:
        if hook == "after_this":
            after_this_request(lambda response: enqueue() and response)
        return "body"

    if hook == "before_request":
        app.before_request(lambda: enqueue() and None)
    elif hook == "after_request":
        app.after_request(lambda response: enqueue() and response)
    elif hook == "teardown_request":
        app.teardown_request(lambda error: enqueue() and None)
    expect_held_until_closed(app, items)


def test_when_the_client_has_gone(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """A server closes a response that it could not send to the end: the item starts then."""

    @app.get("/")
    def view() -> Response:
        enqueue()
        return Response(iter(["one", "two", "three"]))

    body, _, _ = run_wsgi_app(app, EnvironBuilder("/").get_environ())
    assert next(iter(body)) == b"one"
    assert not started(items[0])
    body.close()  # type: ignore[attr-defined]
    assert items[0].result(BOUND) == 42


def test_several(make_site: Callable[..., Site]) -> None:
    """Waiting items start in their order; items with when="now" do not wait for them."""
    site = make_site(BACKGROUND_WORKERS=1)
    order: list[str] = []
    now = site.background.task(order.append)
    later = now.using(when="response")

    @site.app.get("/")
    def view() -> str:
        later.enqueue("first")
        later.enqueue("second")
        assert now.enqueue("now").wait(BOUND)
        return "body"

    site.client.get("/").close()
    assert site.background.wait_idle(BOUND)
    assert order == ["now", "first", "second"]


def test_requests_are_apart(app: Flask, background: Background) -> None:
    """The end of one response starts no item of another request."""
    task = background.task(lambda: 42).using(when="response")
    held: dict[str, WorkItem[int]] = {}

    @app.get("/<name>")
    def view(name: str) -> str:
        held[name] = task.enqueue()
        return name

    one, two = (app.test_client().get(f"/{name}") for name in ("one", "two"))
    one.close()
    assert held["one"].result(BOUND) == 42
    assert not started(held["two"])
    two.close()
    assert held["two"].result(BOUND) == 42


@pytest.mark.parametrize("context", ["none", "app", "test request"])
def test_outside_of_a_request(app: Flask, background: Background, context: str) -> None:
    """An item starts at once if no response will be sent."""
    task = background.task(lambda: 42).using(when="response")
    if context == "none":
        assert task.enqueue().result(BOUND) == 42
        return
    with app.app_context() if context == "app" else app.test_request_context():
        assert task.enqueue().result(BOUND) == 42


def test_in_an_item(background: Background) -> None:
    """An item that enqueues with when="response" has no response to wait for, so its item starts at once."""
    task = background.task(lambda: 42).using(when="response")
    (inner,) = background.enqueue(lambda: [task.enqueue()]).result(BOUND)
    assert inner.result(BOUND) == 42


# The view fails.


class Worst(BaseException):
    """An error that no ``except Exception`` catches."""


def failing(app: Flask, enqueue: Enqueue, error: BaseException) -> None:
    """Add a view that enqueues and fails."""

    @app.get("/")
    def view() -> str:
        enqueue()
        raise error


def expect_dropped(item: WorkItem[int], error: str, caplog: pytest.LogCaptureFixture) -> None:
    """The item was dropped, which its handle and the log say."""
    assert item.status is Status.CANCELLED
    with pytest.raises(ItemCancelledError, match=f"was dropped: its view ended with {error}"):
        item.result(0)
    assert item.started_at is None
    assert lines(caplog, logging.WARNING) == [
        f"Item {item.id} (shop.work) dropped: its view ended with {error}"
    ]


@pytest.mark.parametrize("settings", [{}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}], ids=str)
@pytest.mark.parametrize("error", [KeyError("s3cret"), Worst("s3cret"), SystemExit(1)], ids=repr)
def test_dropped(
    app: Flask,
    items: list[WorkItem[int]],
    enqueue: Enqueue,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    settings: dict[str, bool],
) -> None:
    """A view that ends in an unhandled error drops its items, also where it is passed on; the log says so."""
    app.config.update(settings)
    failing(app, enqueue, error)
    with receiving(signals.item_finished, app) as finished:
        if settings or not isinstance(error, Exception):
            with pytest.raises(type(error)):
                app.test_client().get("/")
        else:
            assert app.test_client().get("/").status_code == 500
    expect_dropped(items[0], type(error).__name__, caplog)
    assert [values["item"] for values in finished] == items


def test_dropped_by_a_broken_hook(
    app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in after_request ends the view as well."""

    @app.get("/")
    def view() -> str:
        enqueue()
        return "body"

    @app.after_request
    def broken(response: Response) -> Response:
        raise KeyError("hook")

    assert app.test_client().get("/").status_code == 500
    expect_dropped(items[0], "KeyError", caplog)


def test_dropped_by_a_broken_teardown(
    app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a teardown function, which Flask raises, drops the items as well."""

    @app.get("/")
    def view() -> str:
        enqueue()
        return "body"

    @app.teardown_request
    def broken(error: BaseException | None) -> None:
        raise KeyError("teardown")

    with pytest.raises(KeyError):
        app.test_client().get("/")
    expect_dropped(items[0], "KeyError", caplog)


def test_dropped_lets_uploads_go(app: Flask, background: Background) -> None:
    """A dropped item closes the uploads that it had taken over."""
    task = background.task(lambda photo: None).using(when="response")
    streams = []

    @app.post("/")
    def view() -> str:
        upload = request.files["photo"]
        streams.append(upload.stream)
        task.enqueue(upload)
        raise KeyError

    client = app.test_client()
    client.post("/", data={"photo": (io.BytesIO(b"picture"), "a.jpg")}).close()
    assert streams[0].closed


def test_not_dropped_by_abort(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """An HTTP error is a response like any other."""

    @app.get("/")
    def view() -> str:
        enqueue()
        abort(404)

    with app.test_client().get("/") as response:
        assert response.status_code == 404
        assert not started(items[0])
    assert items[0].result(BOUND) == 42


def test_not_dropped_when_handled(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """An error that the app handles drops no item."""

    @app.errorhandler(KeyError)
    def handle(error: KeyError) -> tuple[str, int]:
        enqueue()
        return "sorry", 400

    failing(app, enqueue, KeyError("handled"))
    expect_held_until_closed(app, items)
    assert len(items) == 2


def test_enqueued_by_the_error_page(
    app: Flask, items: list[WorkItem[int]], enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    """An item that the page for unhandled errors enqueues, such as a mail to the admins, is not dropped."""

    @app.errorhandler(500)
    def sorry(error: Exception) -> tuple[str, int]:
        enqueue()
        return "sorry", 500

    failing(app, enqueue, KeyError("unhandled"))
    with app.test_client().get("/") as response:
        assert response.status_code == 500
        dropped, mail = items
        expect_dropped(dropped, "KeyError", caplog)
        assert not started(mail)
    assert mail.result(BOUND) == 42


def test_started_now_is_not_dropped(app: Flask, background: Background) -> None:
    """Only items that wait for the response are dropped."""
    task = background.task(lambda: 42)
    begun = []

    @app.get("/")
    def view() -> str:
        begun.append(task.enqueue())
        raise KeyError

    app.test_client().get("/").close()
    assert begun[0].result(BOUND) == 42


# Held items are items.


def hold_one(app: Flask, enqueue: Enqueue) -> TestResponse:
    """A response that was not closed yet, of a view that has enqueued."""

    @app.get("/")
    def view() -> str:
        return enqueue().id

    return app.test_client().get("/")


def test_held_can_be_cancelled(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """An item that waits for the response can be cancelled; the response's end does not wake it."""
    with hold_one(app, enqueue):
        assert items[0].cancel()
        assert items[0].status is Status.CANCELLED
    assert items[0].started_at is None


def test_held_is_in_flight(
    app: Flask, background: Background, items: list[WorkItem[int]], enqueue: Enqueue
) -> None:
    """An item that waits for the response counts as queued, can be found, and is waited for."""
    with hold_one(app, enqueue) as response:
        assert background.stats().queued == 1
        assert background.get(response.text) is items[0]
        assert not background.wait_idle(0.02)
    assert background.wait_idle(BOUND)


def test_held_over_the_stop(
    app: Flask, background: Background, items: list[WorkItem[int]], enqueue: Enqueue
) -> None:
    """An item whose response is still being sent when the time is up is on record as interrupted."""
    with hold_one(app, enqueue):
        assert background.stop(0.02) == items
        assert items[0].status is Status.INTERRUPTED
    assert items[0].status is Status.INTERRUPTED
    assert items[0].started_at is None


def test_released_in_the_stop(
    app: Flask, background: Background, items: list[WorkItem[int]], enqueue: Enqueue
) -> None:
    """An item whose response ends in the grace period still runs."""
    response = hold_one(app, enqueue)
    threading.Timer(0.05, response.close).start()
    assert background.stop(BOUND) == []
    assert items[0].result(0) == 42


def test_held_counts(make_site: Callable[..., Site]) -> None:
    """Items that wait for the response count against the bound; a refusal is answered, and they start."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1)
    task = site.background.task(lambda: 42).using(when="response")
    items: list[WorkItem[int]] = []

    @site.app.get("/")
    def view() -> str:
        items.append(task.enqueue())
        items.append(task.enqueue())
        task.enqueue()
        return "body"

    with site.client.get("/") as response:
        assert response.status_code == 503
        assert not any(item.wait(0.02) for item in items)
    assert [item.result(BOUND) for item in items] == [42, 42]


@pytest.mark.parametrize("kind", [QueueFull, Stopping])
def test_refusal_of_the_last_keeps_the_others(make_site: Callable[..., Site], kind: type[Exception]) -> None:
    """A refusal that is answered with 503 is a response: what the view had enqueued before it starts."""
    site = make_site()
    task = site.background.task(lambda: 42).using(when="response")
    items: list[WorkItem[int]] = []

    @site.app.get("/")
    def view() -> str:
        items.append(task.enqueue())
        raise kind("full")

    with site.client.get("/") as response:
        assert response.status_code == 503
    assert items[0].result(BOUND) == 42


# One app in another.


def two_apps(make_site: Callable[..., Site]) -> tuple[Site, Site, Task[[], int], Task[[], int]]:
    """Two apps with a task each, which wait for responses."""
    outer, inner = make_site("outer"), make_site("inner")
    return (
        outer,
        inner,
        outer.background.task(lambda: 42).using(when="response"),
        inner.background.task(lambda: 42).using(when="response"),
    )


def test_app_that_passes_a_request_on(make_site: Callable[..., Site]) -> None:
    """Of a view that answers with another app's response, each app's items wait for its own response."""
    outer, inner, outer_task, inner_task = two_apps(make_site)
    items: list[WorkItem[int]] = []

    @inner.app.get("/")
    def answer() -> str:
        items.append(inner_task.enqueue())
        return "inner"

    @outer.app.get("/")
    def ask() -> Response:
        items.append(outer_task.enqueue())
        response = Response.from_app(inner.app, request.environ)  # type: ignore[arg-type]
        items.append(outer_task.enqueue())
        return response

    expect_held_until_closed(outer.app, items)
    assert len(items) == 3


def test_app_that_calls_another(make_site: Callable[..., Site]) -> None:
    """An app that calls another one with its own environ keeps the items that it enqueues afterwards."""
    outer, inner, outer_task, _ = two_apps(make_site)
    items: list[WorkItem[int]] = []
    inner.app.add_url_rule("/", view_func=lambda: "inner")

    @outer.app.get("/")
    def ask() -> bytes:
        body = inner.app(request.environ, lambda status, headers, exc_info=None: io.BytesIO().write)
        answer = b"".join(body)
        body.close()  # type: ignore[attr-defined]
        items.append(outer_task.enqueue())
        return answer

    expect_held_until_closed(outer.app, items)


def test_inner_app_fails(make_site: Callable[..., Site]) -> None:
    """A failing view of the other app drops its own items, and not those of the app that called it."""
    outer, inner, outer_task, inner_task = two_apps(make_site)
    items: list[WorkItem[int]] = []

    @inner.app.get("/")
    def answer() -> str:
        items.append(inner_task.enqueue())
        raise KeyError

    @outer.app.get("/")
    def ask() -> Response:
        items.append(outer_task.enqueue())
        return Response.from_app(inner.app, request.environ)  # type: ignore[arg-type, return-value]

    with outer.client.get("/") as response:
        assert response.status_code == 500
        of_outer, of_inner = items
        assert of_inner.status is Status.CANCELLED
        assert not started(of_outer)
    assert of_outer.result(BOUND) == 42


def test_mounted_apps(make_site: Callable[..., Site]) -> None:
    """Apps that are mounted side by side each hold their own items."""
    outer, inner, outer_task, inner_task = two_apps(make_site)
    items: list[WorkItem[int]] = []

    def view_of(task: Task[[], int]) -> Callable[[], str]:
        def view() -> str:
            items.append(task.enqueue())
            return "body"

        return view

    outer.app.add_url_rule("/", view_func=view_of(outer_task))
    inner.app.add_url_rule("/", view_func=view_of(inner_task))
    both = DispatcherMiddleware(outer.app, {"/inner": inner.app})
    for path in ("/", "/inner/"):
        items.clear()
        expect_held_until_closed(both, items, path)


def test_middleware_around_and_inside(app: Flask, items: list[WorkItem[int]], enqueue: Enqueue) -> None:
    """Middleware that passes a copy of the environ on, or wraps the body, does not matter."""

    def copying(wsgi_app: Any) -> Any:
        def call(environ: dict[str, Any], start_response: Any) -> Any:
            body = wsgi_app(dict(environ), start_response)
            try:
                yield from body
            finally:
                body.close()

        return call

    app.wsgi_app = copying(copying(app.wsgi_app))  # type: ignore[method-assign]

    @app.get("/")
    def view() -> str:
        enqueue()
        return "body"

    expect_held_until_closed(app, items)


def test_too_much_to_hold(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """Under "run" the caller runs an item that finds no room, but not before the response either."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="run")
    for _ in range(2):
        site.background.enqueue(gate.wait, BOUND)
    ran: list[int] = []
    task = site.background.task(ran.append).using(when="response")

    @site.app.get("/")
    def view() -> str:
        task.enqueue(1)
        assert ran == []
        return "body"

    with site.client.get("/") as response:
        assert response.status_code == 200
        gate.set()
    assert site.background.wait_idle(BOUND)
    assert ran == [1]
