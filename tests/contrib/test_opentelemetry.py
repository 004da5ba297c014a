"""Spans and metrics of OpenTelemetry in one process."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    SpanKind,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
)

from flask_background import Background, Status, current_item, signals
from flask_background.contrib import opentelemetry
from flask_background.contrib.opentelemetry import FlaskBackgroundInstrumentor
from flask_background.errors import QueueFull

from ..helpers import BOUND, Script, Site, until

#: What the client of a request sent, and the ids in it.
CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENT = {"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=1"}

#: An app whose process was started by ``opentelemetry-instrument``.
AUTOMATIC = f"""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())

from flask import Flask
from flask_background import Background, current_item

app = Flask(__name__)
background = Background(app)

@app.get("/")
def index():
    return background.enqueue(lambda: current_item.state.traceparent).result(60)

print(app.test_client().get("/", headers={CLIENT}).text)
"""


class Telemetry:
    """What an instrumented app has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The spans of this name, in the order in which they ended, once there are so many."""

        def look() -> list[ReadableSpan] | None:
            found = [span for span in self._exporter.get_finished_spans() if span.name == name]
            return found if len(found) >= count else None

        found = until(look)
        assert len(found) == count
        return found

    def span(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        return self.spans(name)[0]

    def names(self) -> list[str]:
        """The names of all spans so far."""
        return [span.name for span in self._exporter.get_finished_spans()]

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Instruments all apps that the test makes."""
    telemetry = Telemetry()
    FlaskBackgroundInstrumentor().instrument(
        tracer_provider=telemetry.tracers, meter_provider=telemetry.meters
    )
    yield telemetry
    FlaskBackgroundInstrumentor().uninstrument()
    telemetry.meters.shutdown()
    telemetry.tracers.shutdown()


@pytest.fixture
def site(telemetry: Telemetry, make_site: Callable[..., Site], tmp_path: Path) -> Iterator[Site]:
    """An app whose views have spans, too."""
    site = make_site(BACKGROUND_JOURNAL=str(tmp_path), BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1)
    FlaskInstrumentor().instrument_app(site.app, tracer_provider=telemetry.tracers)
    yield site
    FlaskInstrumentor().uninstrument_app(site.app)


def ids(span: ReadableSpan) -> tuple[str, str]:
    """The ids of a span's trace and of the span, in hexadecimal digits."""
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


def parent_of(span: ReadableSpan) -> str | None:
    """The id of a span's parent."""
    return None if span.parent is None else format_span_id(span.parent.span_id)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "journal"])
def test_from_client_to_item(site: Site, telemetry: Telemetry, durable: bool) -> None:
    """The client's trace goes on in the view, in its enqueue, and in the item."""
    states = []

    @site.background.task(name="shop.mail", durable=durable)
    def mail() -> None:
        states.append(current_item.state)

    @site.app.post("/orders")
    def order() -> str:
        return mail.enqueue().id

    item_id = site.client.post("/orders", headers=CLIENT).text
    run, send, view = (
        telemetry.span(name) for name in ("process shop.mail", "send shop.mail", "POST /orders")
    )
    assert {ids(span)[0] for span in (run, send, view)} == {CLIENT_TRACE}
    assert [parent_of(span) for span in (run, send, view)] == [ids(send)[1], ids(view)[1], CLIENT_SPAN]
    assert (send.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (send.status.status_code, run.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)
    assert (run.links, run.context.trace_state) == ((), {"vendor": "1"})
    common = {
        "messaging.system": "flask_background",
        "messaging.destination.name": "shop.mail",
        "messaging.message.id": item_id,
    }
    assert attributes(send) == {
        **common,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    assert attributes(run) == {
        **common,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.flask_background.message.delivery_attempt": 1,
    }
    assert states[0].traceparent == f"00-{CLIENT_TRACE}-{ids(send)[1]}-01"


def test_span_is_current_in_the_item(site: Site, telemetry: Telemetry) -> None:
    """The app's own spans inside an item are children of its run, also after a coroutine's await."""
    tracer = telemetry.tracers.get_tracer("app")

    @site.background.task
    def function() -> None:
        with tracer.start_as_current_span("in function"):
            pass

    @site.background.task
    async def coroutine() -> None:
        await asyncio.sleep(0.001)
        with tracer.start_as_current_span("in coroutine"):
            await asyncio.sleep(0)

    for task in (function, coroutine):
        task.enqueue().result(BOUND)
        run = telemetry.span(f"process {task.name}")
        inner = telemetry.span(f"in {task.func.__name__}")
        assert (ids(inner)[0], parent_of(inner)) == ids(run)
    assert not get_current_span().get_span_context().is_valid


def test_item_enqueues_an_item(site: Site, telemetry: Telemetry) -> None:
    """Outside of a request, too, an item is part of the trace in which it was enqueued."""

    @site.background.task(name="shop.second")
    def second() -> bool:
        return bool(current_item.state)

    @site.background.task(name="shop.first")
    def first() -> Any:
        return second.enqueue()

    with telemetry.tracers.get_tracer("app").start_as_current_span("script") as script:
        assert first.enqueue().result(BOUND) is False  # its own result is that of the second
    trace = format_trace_id(script.get_span_context().trace_id)
    chain = ["send shop.first", "process shop.first", "send shop.second", "process shop.second"]
    spans = [telemetry.span(name) for name in chain]
    assert {ids(span)[0] for span in spans} == {trace}
    parents = [format_span_id(script.get_span_context().span_id), *(ids(span)[1] for span in spans[:-1])]
    assert [parent_of(span) for span in spans] == parents


def test_failure(site: Site, telemetry: Telemetry) -> None:
    """A run that fails has its exception and an error status, in spans and in metrics."""

    class OddError(ValueError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    for name, error in (("shop.fails", ValueError("on purpose")), ("shop.odd", OddError())):

        def fail(error: Exception = error) -> None:
            raise error

        item = site.background.task(name=name)(fail).enqueue()
        assert item.exception(BOUND) is error
        run = telemetry.span(f"process {name}")
        kind = attributes(run)["error.type"]
        assert run.status.status_code is StatusCode.ERROR
        assert kind.endswith(type(error).__name__)
        (point,) = (
            point
            for point in telemetry.points("messaging.process.duration")
            if point.attributes["messaging.destination.name"] == name
        )
        assert point.attributes["error.type"] == kind
    (event,) = telemetry.span("process shop.fails").events
    assert (event.name, event.attributes["exception.message"]) == ("exception", "on purpose")


def test_refusal(site: Site, telemetry: Telemetry, gate: threading.Event) -> None:
    """An item that is not accepted has a send span with the error."""
    hold = site.background.task(name="shop.hold")(gate.wait)
    first = hold.enqueue(BOUND)
    until(lambda: first.status is Status.RUNNING)
    hold.enqueue(BOUND)
    with pytest.raises(QueueFull):
        hold.enqueue(BOUND)
    gate.set()
    refused = telemetry.spans("send shop.hold", 3)[-1]
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes(refused)["error.type"] == "flask_background.errors.QueueFull"
    sent = telemetry.points("messaging.client.sent.messages")
    assert sorted((point.value, "error.type" in point.attributes) for point in sent) == [
        (1, True),
        (2, False),
    ]


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "journal"])
def test_retry_has_a_trace_of_its_own(site: Site, telemetry: Telemetry, durable: bool) -> None:
    """A further run does not prolong the trace of the request; it has a link to it."""

    @site.background.task(name="shop.mail", durable=durable, max_attempts=2, backoff=0.001)
    def mail() -> None:
        if current_item.attempt == 1:
            raise ValueError

    mail.enqueue().result(BOUND)
    send = telemetry.span("send shop.mail")
    first, second = telemetry.spans("process shop.mail", 2)
    assert (ids(first)[0], parent_of(first)) == ids(send)
    assert parent_of(second) is None
    assert ids(second)[0] != ids(send)[0]
    assert [link.context.span_id for link in second.links] == [send.context.span_id]
    assert attributes(second)["messaging.flask_background.message.delivery_attempt"] == 2


def test_delayed_run_has_a_trace_of_its_own(
    site: Site, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that begins long after its enqueue is linked, and no part of the request's trace."""
    monkeypatch.setattr(opentelemetry, "OWN_TRACE_AFTER", 0.05)
    site.background.task(name="shop.later")(lambda: None).using(delay=0.1).enqueue().result(BOUND)
    send, run = telemetry.span("send shop.later"), telemetry.span("process shop.later")
    assert parent_of(run) is None
    assert [link.context.trace_id for link in run.links] == [send.context.trace_id]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_cancelled_item_is_no_error(site: Site, telemetry: Telemetry, kind: str) -> None:
    """An item that somebody cancels while it runs ends its span without an error."""
    started = threading.Event()

    @site.background.task
    def function() -> None:
        started.set()
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    @site.background.task
    async def coroutine() -> None:
        started.set()
        await asyncio.sleep(BOUND)

    task = function if kind == "function" else coroutine
    item = task.enqueue()
    assert started.wait(BOUND)
    item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED
    assert telemetry.span(f"process {task.name}").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_timeout_is_an_error(site: Site, telemetry: Telemetry, kind: str) -> None:
    """A run that its timeout has ended has an error, also where that was raised as a cancellation."""

    @site.background.task(timeout=0.05)
    def function() -> None:
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    @site.background.task(timeout=0.05)
    async def coroutine() -> None:
        await asyncio.sleep(BOUND)

    task = function if kind == "function" else coroutine
    item = task.enqueue()
    assert item.wait(BOUND)
    assert item.status is Status.FAILED
    assert telemetry.span(f"process {task.name}").status.status_code is StatusCode.ERROR


def test_end_of_a_child(site: Site, telemetry: Telemetry) -> None:
    """A child process that ends exports what its providers hold; one that exports nothing ends, too."""
    flushed = []
    telemetry.tracers.force_flush = lambda milliseconds: flushed.append(milliseconds)  # type: ignore[assignment]
    telemetry.meters.force_flush = lambda milliseconds: flushed.append(milliseconds)  # type: ignore[assignment]
    signals.child_ending.send(site.app)
    assert [0 < milliseconds < 1000 for milliseconds in flushed] == [True, True]


def test_metrics(site: Site, telemetry: Telemetry) -> None:
    """The metrics have the names, units and attributes of the conventions."""
    site.background.task(name="shop.mail")(lambda: None).enqueue().result(BOUND)
    telemetry.span("process shop.mail")
    send = {
        "messaging.system": "flask_background",
        "messaging.destination.name": "shop.mail",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    process = {**send, "messaging.operation.name": "process", "messaging.operation.type": "process"}
    expected = {
        "messaging.client.sent.messages": send,
        "messaging.client.operation.duration": send,
        "messaging.client.consumed.messages": process,
        "messaging.process.duration": process,
    }
    for name, labels in expected.items():
        (point,) = telemetry.points(name)
        assert dict(point.attributes) == labels
        assert getattr(point, "count", None) == 1 or point.value == 1
    assert telemetry.points("messaging.process.duration")[0].explicit_bounds[-1] == 7_200


def test_trace_that_is_not_sampled(make_site: Callable[..., Site]) -> None:
    """An item carries the decision that its trace is not sampled."""
    FlaskBackgroundInstrumentor().instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        site = make_site()
        look = site.background.task(lambda: current_item.state.traceparent)
        *_, flags = look.enqueue().result(BOUND).split("-")
        assert not int(flags, 16) & TraceFlags.SAMPLED
    finally:
        FlaskBackgroundInstrumentor().uninstrument()


def test_without_an_sdk(make_site: Callable[..., Site]) -> None:
    """With OpenTelemetry's API alone nothing is exported, and an item keeps what the client sent."""
    FlaskBackgroundInstrumentor().instrument()
    try:
        site = make_site()
        look = site.background.task(lambda: current_item.state.traceparent)
        site.app.add_url_rule("/", view_func=lambda: look.enqueue().result(BOUND))
        assert site.client.get("/", headers=CLIENT).text == CLIENT["traceparent"]
    finally:
        FlaskBackgroundInstrumentor().uninstrument()


def test_one_app(make_site: Callable[..., Site]) -> None:
    """One app can be instrumented, however often that is said; other apps are left alone."""
    telemetry, mine, other = Telemetry(), make_site("mine"), make_site("other")
    for _ in range(2):
        FlaskBackgroundInstrumentor.instrument_app(
            mine.app, tracer_provider=telemetry.tracers, meter_provider=telemetry.meters
        )
    for site in (mine, other):
        site.background.task(name=site.app.name)(lambda: None).enqueue().result(BOUND)
        site.background.wait_idle(BOUND)
    assert sorted(telemetry.names()) == ["process mine", "send mine"]
    FlaskBackgroundInstrumentor.uninstrument_app(mine.app)
    mine.background.enqueue(lambda: None).result(BOUND)
    assert len(telemetry.names()) == 2


def test_uninstrument_leaves_nothing(make_site: Callable[..., Site]) -> None:
    """After uninstrument neither apps that were instrumented nor new ones have spans."""
    telemetry = Telemetry()
    before = [len(signal.receivers) for signal in (signals.initialized, signals.child_ending)]
    instrumentor = FlaskBackgroundInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
    old = make_site()
    instrumentor.uninstrument()
    for site in (old, make_site()):
        site.background.enqueue(lambda: None).result(BOUND)
    assert telemetry.names() == []
    assert [len(signal.receivers) for signal in (signals.initialized, signals.child_ending)] == before
    assert not instrumentor.is_instrumented_by_opentelemetry


def test_several_apps_of_one_background(telemetry: Telemetry) -> None:
    """Each item of a Background that serves two apps has each span once."""
    background = Background()
    apps = [Flask(name) for name in ("one", "two")]
    for app in apps:
        background.init_app(app)
    task = background.task(name="shared")(lambda: None)
    for app in apps:
        with app.app_context():
            task.enqueue().result(BOUND)
    telemetry.spans("process shared", 2)
    telemetry.spans("send shared", 2)


def test_entry_point() -> None:
    """The instrumentor is found by its entry point, and accepts this version of the package."""
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="flask_background")
    assert entry.load() is FlaskBackgroundInstrumentor
    instrumentor = FlaskBackgroundInstrumentor()
    instrumentor.instrument(raise_exception_on_conflict=True)
    instrumentor.uninstrument()


def test_automatic_instrumentation(script: Callable[..., Script]) -> None:
    """``opentelemetry-instrument`` instruments an app that says nothing of OpenTelemetry."""
    program = script(AUTOMATIC, within=[str(Path(sys.executable).parent / "opentelemetry-instrument")])
    assert program.ends() == 0, program.said
    trace, parent = re.findall(r"00-([0-9a-f]{32})-([0-9a-f]{16})-", program.said)[0]
    assert trace == CLIENT_TRACE
    assert parent != CLIENT_SPAN
