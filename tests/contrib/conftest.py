"""The site under gunicorn and in a Celery worker, and a stand-in for an OpenTelemetry collector."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ..helpers import BOUND, ROOT, until
from ..integration.servers import Server, gunicorn

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from ..redis_server import Redis


class Collector:
    """Takes spans over OTLP, as a collector does."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        collector = self
        self._spans: dict[bytes, Span] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _take(self, request: Any) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._spans[span.span_id] = span

    def spans(self, name: str) -> list[Span]:
        """The spans of this name that have come, in the order in which they ended."""
        found = [span for span in list(self._spans.values()) if span.name == name]
        return sorted(found, key=lambda span: span.end_time_unix_nano)

    def get(self, span_id: bytes) -> Span:
        """The span with this id, once it has come."""
        return until(lambda: self._spans.get(span_id))

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(BOUND)


class Site(NamedTuple):
    """The site under gunicorn with two workers, and its collector. Other processes run most of its items."""

    server: Server
    collector: Collector
    env: dict[str, str]


#: Commands that run items, beside gunicorn, and what each logs when it does.
RUNNERS = {
    "worker": (("worker",), "started: runs items of"),
    "celery-worker": (("celery-worker", "--concurrency", "1", "--loglevel", "info"), " ready."),
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def site_server(
    redis: Redis, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The site, for the tests of a module."""
    redis.forget_all()
    folder = tmp_path_factory.mktemp("site")
    counts = folder / "counts"
    counts.mkdir()
    env = {
        "SITE_CELERY": json.dumps({"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}),
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "FLASK_BACKGROUND_JOURNAL": json.dumps(str(folder / "journal")),
        "FLASK_BACKGROUND_PUBLISH_TIMEOUT": json.dumps(BOUND),
        "FLASK_BACKGROUND_RUN_IN_WEB": "false",
    }
    with ExitStack() as stack:
        runners = [
            stack.enter_context(run_command(folder / name, env, *RUNNERS[name][0])) for name in RUNNERS
        ]
        server = stack.enter_context(
            gunicorn(
                folder,
                *("--workers", "2", "--threads", "4"),
                env={**env, "PYTHONWARNINGS": "error"},
                app="tests.contrib.site:create_app()",
            )
        )
        for process, name in zip(runners, RUNNERS, strict=True):
            wait_for_line(process, folder / name, RUNNERS[name][1])
        yield Site(server, collector, env)


def wait_for_line(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    """Wait until a process has logged this."""
    until(lambda: words in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()


@contextmanager
def run_command(log: Path, env: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of ``flask background`` for the site; in the end kill it with its children."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "tests.contrib.site", "background", *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(BOUND)
