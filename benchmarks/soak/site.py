"""The app under gunicorn: views that enqueue items, and a file to which the end of each item is appended."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask import Flask

from flask_background import Background, Task, WorkItem, current_item
from flask_background.signals import item_finished

# Of so many items one fails in its first attempt, and one of so many more in its last.
_STUMBLES = 100


def create_app() -> Flask:
    """The app, whose files are in the folder that ``SOAK_FOLDER`` names."""
    folder = Path(os.environ["SOAK_FOLDER"])
    app = Flask("soak")
    app.config.update(
        BACKGROUND_JOURNAL=folder / "journal",
        BACKGROUND_EXECUTORS={"cpu": {"kind": "process", "workers": 1}},
        BACKGROUND_APP="benchmarks.soak.site:create_app()",
        # Ended durable items are removed during the soak, so that the journal comes to rest, too.
        BACKGROUND_KEEP=60,
    )
    background = Background(app)
    ends = os.open(folder / "ends", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def stumble(number: int) -> int:
        if number % _STUMBLES == 0 and (current_item.attempt == 1 or number % (3 * _STUMBLES) == 0):
            raise LookupError(number)
        return number

    def work(number: int) -> int:
        time.sleep(0.0005)
        return stumble(number)

    async def coroutine(number: int) -> int:
        return stumble(number)

    options: dict[str, Any] = {"max_attempts": 2, "backoff": 0.1}
    tasks: dict[str, Task[..., Any]] = {
        "memory": background.task(name="memory", **options)(work),
        "coroutine": background.task(name="coroutine", **options)(coroutine),
        "durable": background.task(name="durable", durable=True, **options)(work),
        "child": background.task(name="child", executor="cpu", **options)(stumble),
    }

    @item_finished.connect_via(app)
    def ended(app: Flask, item: WorkItem[Any]) -> None:
        os.write(ends, f"{item.task_name} {item.id} {item.status}\n".encode())

    app.extensions["soak"] = ended  # a signal does not keep its receiver

    @app.post("/<kind>/<int:number>/<int:count>")
    def enqueue(kind: str, number: int, count: int) -> str:
        task = tasks[kind]
        return " ".join(task.enqueue(each).id for each in range(number, number + count))

    @app.get("/")
    def index() -> str:
        return "ok"

    return app
