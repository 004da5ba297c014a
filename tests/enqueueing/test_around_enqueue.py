"""Functions around each enqueue: what they see, what the item carries, and what their errors do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest
from flask import Flask

from flask_background import Background, WorkItem, current_item
from flask_background.errors import ConfigurationError, QueueFull, StateError

from ..helpers import BOUND, Site

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
Around = Generator[Any, WorkItem[Any], None]


def test_order(background: Background) -> None:
    """The functions enclose an enqueue, the first added as the outermost, and get its item."""
    seen: list[Any] = []

    def add(name: str) -> None:
        @background.around_enqueue
        def around(task_name: str) -> Around:
            seen.append((name, task_name))
            item = yield
            seen.append((name, item.id))

    add("outer")
    add("inner")
    made = background.task(name="seven")(lambda: 7).enqueue()
    assert seen == [("outer", "seven"), ("inner", "seven"), ("inner", made.id), ("outer", made.id)]
    assert made.result(BOUND) == 7
    seen.clear()
    bare = background.enqueue(len, "abc")
    assert seen[-1] == ("outer", bare.id)
    assert bare.result(BOUND) == 3


def test_trace_outside_of_request(background: Background) -> None:
    """An item carries the trace context that a function yields; its state is still that of no request."""

    @background.around_enqueue
    def trace(task_name: str) -> Around:
        yield {**TRACE, "baggage": "not kept"}

    @background.task
    def look() -> tuple[Any, ...]:
        state = current_item.state
        return bool(state), state.traceparent, state.tracestate, state.url_root

    assert look.enqueue().result(BOUND) == (False, TRACE["traceparent"], TRACE["tracestate"], "")


def test_trace_in_request(site: Site) -> None:
    """The trace context that a function yields takes the place of the request's, as a whole."""
    app, background = site.app, site.background
    yielded: list[dict[str, str] | None] = [None, {"traceparent": "00-2"}]
    items: list[WorkItem[Any]] = []

    @background.around_enqueue
    def trace(task_name: str) -> Around:
        yield yielded[len(items)]

    @app.get("/")
    def view() -> str:
        for _ in yielded:
            items.append(background.enqueue(int))
        return ""

    site.client.get("/", headers=TRACE)
    assert [(item.state.traceparent, item.state.tracestate) for item in items] == [
        (TRACE["traceparent"], TRACE["tracestate"]),
        ("00-2", None),
    ]
    assert {item.state.path for item in items} == {"/"}


def test_from_item(background: Background) -> None:
    """An item enqueued by an item carries a trace context of its own."""

    @background.around_enqueue
    def trace(task_name: str) -> Around:
        outer = current_item.state.traceparent if current_item else "none"
        yield {"traceparent": f"{outer}/{task_name}"}

    @background.task(name="last")
    def last() -> str | None:
        return current_item.state.traceparent

    @background.task(name="first")
    def first() -> str | None:
        return last.enqueue().result(BOUND)

    assert first.enqueue().result(BOUND) == "none/first/last"


def test_inner_counts(background: Background) -> None:
    """Of two trace contexts the one of the inner function counts."""
    for number in (1, 2):

        @background.around_enqueue
        def trace(task_name: str, number: int = number) -> Around:
            yield {"traceparent": str(number)}

    assert background.enqueue(int).state.traceparent == "2"


def test_refusal(make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is raised at the yield and then by enqueue, whatever the function makes of it."""
    executors = {"thread": {"kind": "thread", "workers": 1}}
    site = make_site(BACKGROUND_EXECUTORS=executors, BACKGROUND_MAX_QUEUED=1)
    background = site.background
    seen: list[BaseException] = []
    gate = Event()

    @background.around_enqueue
    def swallow(task_name: str) -> Around:
        try:
            yield
        except QueueFull as error:
            seen.append(error)

    @background.around_enqueue
    def replace(task_name: str) -> Around:
        try:
            yield
        except QueueFull:
            raise KeyError(task_name) from None

    items = [background.enqueue(gate.wait, BOUND) for _ in range(2)]
    with pytest.raises(QueueFull) as refused:
        background.enqueue(int)
    gate.set()
    assert all(item.wait(BOUND) for item in items)
    assert seen == [refused.value]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert (
        record.getMessage() == "An around_enqueue function failed after the refusal of an item (builtins.int)"
    )


def test_error_before(background: Background) -> None:
    """An error before the yield is raised by enqueue, and nothing is enqueued; outer functions see it."""
    seen: list[str] = []

    @background.around_enqueue
    def outer(task_name: str) -> Around:
        try:
            yield
        except LookupError as error:
            seen.append(str(error))

    @background.around_enqueue
    def inner(task_name: str) -> Around:
        raise LookupError("no tenant")
        yield

    with pytest.raises(LookupError, match="no tenant") as refused:
        background.enqueue(int)
    assert "around_enqueue function tests.enqueueing" in refused.value.__notes__[0]
    assert seen == ["no tenant"]
    assert background.items() == []


def test_error_after(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """An error after the yield is logged: the item has been accepted, and enqueue returns it."""
    seen: list[str] = []

    @background.around_enqueue
    def outer(task_name: str) -> Around:
        item = yield
        seen.append(item.id)

    @background.around_enqueue
    def broken(task_name: str) -> Around:
        yield
        raise OSError("no collector")

    @background.around_enqueue
    def twice(task_name: str) -> Around:
        yield
        yield

    item = background.enqueue(int)
    assert item.result(BOUND) == 0
    assert seen == [item.id]
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(item.id in one.getMessage() for one in errors)
    assert "yielded twice" in str(errors[0].exc_info)
    assert "no collector" in str(errors[1].exc_info)


@pytest.mark.parametrize(
    ("yielded", "error"), [("00-1", "yielded str"), ({"traceparent": 7}, "no text"), ([], "yielded list")]
)
def test_wrong_context(background: Background, yielded: Any, error: str) -> None:
    """A function that yields no trace context is named when it does so."""

    @background.around_enqueue
    def trace(task_name: str) -> Around:
        yield yielded

    with pytest.raises(StateError, match=error):
        background.enqueue(int)
    assert background.items() == []


def test_no_yield(background: Background) -> None:
    """A function that ends without a yield is named, and nothing is enqueued."""

    @background.around_enqueue
    def trace(task_name: str) -> Around:
        if task_name == "never":
            yield

    with pytest.raises(ConfigurationError, match=r"trace ended without a yield"):
        background.enqueue(int)


def test_unfit(background: Background) -> None:
    """Only a generator function of the task's name can be around an enqueue."""

    @contextmanager
    def managed(task_name: str) -> Any:
        yield

    async def asynchronous(task_name: str) -> Any:
        yield

    def bare() -> Any:
        yield

    wrong: list[tuple[Any, str]] = [
        (managed, "leave out the decorator below"),
        (asynchronous, "write def in place of async def"),
        (bare, "is called with one argument, the name of the task"),
        (len, "let it yield once"),
    ]
    for function, why in wrong:
        with pytest.raises(ConfigurationError, match=why):
            background.around_enqueue(function)
    assert background.enqueue(int).result(BOUND) == 0


def test_before_init_app() -> None:
    """A function may be added before init_app; all apps of the Background have it."""
    background = Background()
    seen: list[str] = []

    @background.around_enqueue
    def note(task_name: str) -> Around:
        seen.append(task_name)
        yield

    for name in ("a", "b"):
        app = Flask(name)
        background.init_app(app)
        with app.app_context():
            assert background.enqueue(int).result(BOUND) == 0
    assert seen == ["builtins.int", "builtins.int"]
