"""Traces and metrics for OpenTelemetry, by its conventions for messaging: an enqueue sends, a run processes.

Needs the extra ``opentelemetry``. An item carries the context of its send span in ``state.traceparent`` and
``state.tracestate``, through memory, the journal, child processes and Celery. Baggage is not carried, because
the state has nothing of a request that might be secret.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.metrics import MeterProvider, get_meter, get_meter_provider
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
    get_tracer_provider,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flask_background import Background, CancelReason, WorkItem, __version__, current_item, signals
from flask_background.errors import ItemCancelledError
from flask_background.monitoring.snapshots import BUCKETS

if TYPE_CHECKING:
    from flask import Flask

#: A run that begins later than this many seconds after its enqueue, or is not the first, has its own trace.
OWN_TRACE_AFTER = 60.0
# How long a child process that ends may take to export its last spans and metrics, in seconds.
_EXPORTED_WITHIN = 0.9
# The boundaries that the conventions name, for durations in seconds.
_SEND_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_W3C = TraceContextTextMapPropagator()


class FlaskBackgroundInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instruments Flask-Background: ``FlaskBackgroundInstrumentor().instrument()`` before apps are made.

    ``tracer_provider`` and ``meter_provider`` are OpenTelemetry's global ones if they are not given.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions of Flask-Background that this class instruments."""
        return (f"Flask-Background == {__version__}",)

    def _instrument(self, **kwargs: Any) -> None:
        self._providers = {name: kwargs.get(name) for name in ("tracer_provider", "meter_provider")}
        signals.initialized.connect(self._initialized)

    def _uninstrument(self, **kwargs: Any) -> None:
        signals.initialized.disconnect(self._initialized)
        for background in tuple(_instrumented):
            _remove(background)

    def _initialized(self, app: Flask, background: Background, **_: object) -> None:
        self.instrument_app(app, **self._providers)

    @staticmethod
    def instrument_app(
        app: Flask,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument one app, after its Background was initialised, with all apps of that Background."""
        background: Background = app.extensions["background"]
        if background not in _instrumented:
            _instrumented[background] = tracing = _Tracing(tracer_provider, meter_provider)
            background.around_enqueue(tracing.around_enqueue)
            background.around_item(tracing.around_item)

    @staticmethod
    def uninstrument_app(app: Flask) -> None:
        """Remove what ``instrument_app`` or ``instrument`` has added to an app."""
        _remove(app.extensions["background"])


class _Tracing:
    """The spans and metrics of one Background."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self._tracer_provider, self._meter_provider = tracer_provider, meter_provider
        self._tracer = get_tracer(__name__, __version__, tracer_provider)
        meter = get_meter(__name__, __version__, meter_provider)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self._send_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=_SEND_BUCKETS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        self._process_duration = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=BUCKETS,  # items may run for hours
        )
        signals.child_ending.connect(self._child_ending)

    def around_enqueue(self, task_name: str) -> Generator[dict[str, str], WorkItem[Any], None]:
        """Make the span of an enqueue the current one, and let the item carry its context."""
        attributes = _attributes("send", task_name)
        span = self._tracer.start_span(f"send {task_name}", kind=SpanKind.PRODUCER, attributes=attributes)
        began = time.perf_counter()
        try:
            with _current(span, attributes):
                carried: dict[str, str] = {}
                _W3C.inject(carried)
                item = yield carried
                span.set_attribute("messaging.message.id", item.id)
        finally:
            self._sent.add(1, attributes)
            self._send_duration.record(time.perf_counter() - began, attributes)

    def around_item(self) -> Generator[None, Any, None]:
        """Make the span of a run the current one."""
        item = current_item
        attributes = _attributes("process", item.task_name)
        span = self._start_run(item, attributes)
        self._consumed.add(1, attributes)
        began = time.perf_counter()
        try:
            with _current(span, attributes, item):
                yield
        finally:
            self._process_duration.record(time.perf_counter() - began, attributes)

    def _start_run(self, item: WorkItem[Any], attributes: dict[str, str]) -> Span:
        """Start the span of a run.

        The first run, if it begins soon, is part of the trace in which the item was sent. Every other run has
        a trace of its own, with a link: the trace that sent it has long been looked at, and may be closed.
        """
        state, waited = item.state, 0.0
        carried = {"traceparent": state.traceparent or "", "tracestate": state.tracestate or ""}
        context = _W3C.extract(carried, Context())
        sent = get_current_span(context).get_span_context()
        if item.started_at is not None:
            waited = (item.started_at - item.enqueued_at).total_seconds()
        links = []
        if sent.is_valid and (item.attempt > 1 or waited > OWN_TRACE_AFTER):
            context, links = Context(), [Link(sent)]
        return self._tracer.start_span(
            f"process {item.task_name}",
            context,
            SpanKind.CONSUMER,
            {
                **attributes,
                "messaging.message.id": item.id,
                "messaging.flask_background.message.delivery_attempt": item.attempt,
            },
            links,
        )

    def _child_ending(self, app: Flask, **_: object) -> None:
        """Export what the providers of a child process hold, which would be lost with the child."""
        end = time.monotonic() + _EXPORTED_WITHIN
        for provider in (
            self._tracer_provider or get_tracer_provider(),
            self._meter_provider or get_meter_provider(),
        ):
            flush = getattr(provider, "force_flush", None)  # the providers of the API alone have none
            if flush is not None:
                flush(max(1, int((end - time.monotonic()) * 1000)))


_instrumented: weakref.WeakKeyDictionary[Background, _Tracing] = weakref.WeakKeyDictionary()


def _remove(background: Background) -> None:
    tracing = _instrumented.pop(background, None)
    if tracing is not None:
        background.remove_around(tracing.around_enqueue)
        background.remove_around(tracing.around_item)


def _attributes(operation: str, task_name: str) -> dict[str, str]:
    return {
        "messaging.system": "flask_background",
        "messaging.destination.name": task_name,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


@contextmanager
def _current(span: Span, attributes: dict[str, str], item: WorkItem[Any] | None = None) -> Iterator[None]:
    """Make a span the current one, and end it: with the error, if one is raised, which metrics name, too."""
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            if item is None or not _was_asked_to_end(item, error):
                attributes["error.type"] = kind = _name_of(type(error))
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))
                with suppress(Exception):  # the text of an app's error may raise
                    span.record_exception(error)
            raise


def _name_of(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _was_asked_to_end(item: WorkItem[Any], error: BaseException) -> bool:
    """Return whether a run ended early because somebody cancelled the item, or because the host stops."""
    return isinstance(error, (ItemCancelledError, asyncio.CancelledError)) and item.token.reason in (
        CancelReason.REQUESTED,
        CancelReason.SHUTDOWN,
    )
