"""The app under gunicorn: one view to ask for, and one that has so many items compute for so long.

``LATENCY`` in the environment says what runs the items.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_executor import Executor  # type: ignore[import-untyped]

from flask_background import Background

# What the threads of a process pass the interpreter on after, in seconds; Python's own value is 0.005.
SWITCH_INTERVAL = 0.0005
_WORKERS = 4

Enqueue = Callable[[float], Any]


def compute(seconds: float) -> None:
    """Nothing but Python code, as a PDF is made by."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1_000))


def create_app() -> Flask:
    """The app, as the environment wants it."""
    app = Flask(__name__)
    enqueue = _KINDS[os.environ.get("LATENCY", "threads")](app)
    items: list[Any] = []

    @app.get("/")
    def index() -> str:
        return "ok"

    @app.post("/compute/<int:count>/<float:seconds>")
    def begin(count: int, seconds: float) -> str:
        items[:] = [enqueue(seconds) for _ in range(count)]
        return "ok"

    @app.get("/left")
    def left() -> str:
        return str(sum(not _ended(item) for item in items))

    return app


def _threads(app: Flask) -> Enqueue:
    app.config["BACKGROUND_WORKERS"] = _WORKERS
    return Background(app).task(compute).enqueue


def _eased(app: Flask) -> Enqueue:
    app.config["BACKGROUND_SWITCH_INTERVAL"] = SWITCH_INTERVAL
    return _threads(app)


def _processes(app: Flask) -> Enqueue:
    app.config["BACKGROUND_EXECUTORS"] = {"cpu": {"kind": "process", "workers": _WORKERS, "nice": 10}}
    return Background(app).task(executor="cpu")(compute).enqueue


def _flask_executor(app: Flask, kind: str) -> Enqueue:
    app.config.update(EXECUTOR_TYPE=kind, EXECUTOR_MAX_WORKERS=_WORKERS)
    executor = Executor(app)
    return lambda seconds: executor.submit(compute, seconds)


def _ended(item: Any) -> bool:
    return bool(item.done() if hasattr(item, "done") else item.wait(0))


_KINDS: dict[str, Callable[[Flask], Enqueue]] = {
    "threads": _threads,
    "eased": _eased,
    "processes": _processes,
    "flask-executor, threads": lambda app: _flask_executor(app, "thread"),
    "flask-executor, processes": lambda app: _flask_executor(app, "process"),
}
KINDS = tuple(_KINDS)
