"""An app whose items note their runs, for several processes; its settings come from the environment."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from flask import Flask

from flask_background import Background, current_item

from .record import Record

# How long a run takes, in seconds.
_TAKES = 0.01


def create_app() -> Flask:
    """Make the app."""
    app = Flask("crowd")
    app.config.from_prefixed_env()
    background = Background(app)
    path = Path(os.environ["RECORD"])
    records: dict[int, Record] = {}

    def run() -> None:
        record = records.setdefault(os.getpid(), Record(path))
        record.mark("begin", current_item.id)
        time.sleep(random.uniform(0, 2 * _TAKES))
        record.mark("end", current_item.id)

    @background.task(name="steady", durable=True)
    def steady() -> None:
        run()

    @background.task(name="paused", durable=True)
    def paused() -> None:
        run()

    @background.task(name="cancelled", durable=True)
    def cancelled() -> None:
        run()

    @background.task(name="flaky", durable=True)
    def flaky() -> None:
        run()
        if random.random() < 0.5:
            raise ValueError("no luck this time")

    @app.get("/pid")
    def pid() -> dict[str, int]:
        return {"pid": os.getpid()}

    @app.get("/enqueue")
    def enqueue() -> dict[str, Any]:
        tasks = steady, paused, cancelled, flaky, cancelled.using(delay=0.2)
        return {"ids": [task.enqueue().id for task in tasks for _ in range(3)]}

    return app
