"""A site with metrics and traces, whose view enqueues an item in each of the four ways."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from flask import Flask, Response
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from flask_background import Background, current_item
from flask_background.contrib.opentelemetry import FlaskBackgroundInstrumentor
from flask_background.contrib.prometheus import PrometheusMetrics

background = Background()
metrics = PrometheusMetrics()


def set_up_tracing() -> None:
    """Send spans to the collector that the environment names, as an app does."""
    provider = TracerProvider()
    # The spans of a child process arrive in time only because it flushes them when it ends.
    delay = 60_000 if sys.argv[0] == "-c" else 200
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)
    FlaskBackgroundInstrumentor().instrument()


def create_app() -> Flask:
    """The app, with its views."""
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        set_up_tracing()
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config["BACKGROUND_CELERY"] = json.loads(os.environ["SITE_CELERY"])
    app.config["BACKGROUND_EXECUTORS"] = {"cpu": {"kind": "process", "workers": 1, "max_items": 1}}
    background.init_app(app)
    metrics.init_app(app)
    FlaskInstrumentor().instrument_app(app)

    @app.get("/pid")
    def pid() -> dict[str, Any]:
        return {"pid": os.getpid()}

    @app.get("/work")
    def work() -> dict[str, Any]:
        items = [task.enqueue() for task in (here, kept, elsewhere, far)]
        return {"pid": os.getpid(), "saw": [item.result(60) for item in items]}

    @app.get("/fail")
    def fail() -> dict[str, Any]:
        item = fails.enqueue()
        item.wait(60)
        return {"pid": os.getpid(), "status": item.status.value}

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)

    return app


def seen() -> dict[str, Any]:
    """What an item sees of its trace."""
    context = trace.get_current_span().get_span_context()
    return {"task": current_item.task_name, "pid": os.getpid(), "span": format(context.span_id, "016x")}


@background.task(name="site.here")
def here() -> dict[str, Any]:
    """An item in memory."""
    return seen()


@background.task(name="site.kept", durable=True)
def kept() -> dict[str, Any]:
    """An item in the journal."""
    return seen()


@background.task(name="site.elsewhere", executor="cpu")
def elsewhere() -> dict[str, Any]:
    """An item in a child process."""
    return seen()


@background.task(name="site.far", backend="celery")
def far() -> dict[str, Any]:
    """An item of a Celery worker."""
    return seen()


@background.task(name="site.fails", durable=True, max_attempts=2, backoff=0.01)
def fails() -> None:
    """An item that fails twice."""
    raise ValueError("on purpose")
