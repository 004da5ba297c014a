"""The app under test: its items write down when they start, are told to stop, and are done."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, abort, request

from flask_background import Background, current_item
from flask_background.signals import item_finished


def native_sleep(seconds: float) -> None:
    """Sleep in the operating system, also where gevent has patched time.sleep."""
    original: Callable[[float], None]
    try:
        from gevent.monkey import get_original
    except ImportError:
        original = time.sleep
    else:
        original = get_original("time", "sleep")
    original(seconds)


def write(event: str, name: str, **values: Any) -> None:
    """Append one line to the record; one write, so that processes can share it."""
    line = json.dumps({"event": event, "name": name, "pid": os.getpid(), "at": time.time(), **values})
    descriptor = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def create_app() -> Flask:
    """Make the app; its settings come from FLASK_BACKGROUND_*."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    background = Background(app)

    def begin(name: str) -> None:
        token = current_item.token

        def told() -> None:
            assert token.reason is not None
            write("token", name, reason=token.reason.value, remaining=token.remaining)

        token.on_cancel(told)
        write("started", name)

    @background.task
    def sync(name: str, seconds: float) -> None:
        begin(name)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
        write("done", name)

    @background.task
    def native(name: str, seconds: float) -> None:
        begin(name)
        native_sleep(seconds)
        write("done", name)

    @background.task
    def cpu(name: str, seconds: float) -> None:
        begin(name)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))
        write("done", name)

    @background.task
    async def coroutine(name: str, seconds: float) -> None:
        begin(name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            write("cleanup", name)
            raise
        write("done", name)

    @background.task
    def polite(name: str, seconds: float) -> None:
        begin(name)
        current_item.token.wait(seconds)
        current_item.token.raise_if_cancelled()
        write("done", name)

    @background.task
    def stubborn(name: str, seconds: float) -> None:
        """Blocks its token's callbacks, and leaves a thread behind that Python joins at exit."""
        from concurrent.futures import ThreadPoolExecutor

        begin(name)
        current_item.token.on_cancel(lambda: native_sleep(seconds))
        ThreadPoolExecutor(1).submit(native_sleep, seconds).result()
        write("done", name)

    @background.task(executor="cpu")
    def child(name: str, seconds: float) -> None:
        begin(name)
        logging.getLogger("recorder.items").warning("%s has started", name)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))
        write("done", name)

    # With a journal the app looks for work, which is not for those who look at an idle one.
    @background.task(executor="cpu", durable="BACKGROUND_JOURNAL" in app.config)
    def durable_child(name: str, seconds: float) -> None:
        begin(name)
        time.sleep(seconds)
        write("done", name)

    all_tasks = (sync, native, cpu, coroutine, polite, stubborn, child, durable_child)
    tasks = {task.func.__name__: task for task in all_tasks}

    def finished(sender: Flask, item: Any) -> None:
        write("finished", item.task_name.rpartition(".")[2], status=item.status.value)

    item_finished.connect(finished, app, weak=False)

    @app.get("/pid")
    def pid() -> dict[str, int]:
        return {"pid": os.getpid()}

    @app.get("/stats")
    def stats() -> dict[str, int]:
        return background.stats()._asdict()

    @app.get("/threads")
    def threads() -> dict[str, int]:
        return {"count": len(os.listdir("/proc/self/task"))}

    @app.get("/start")
    def start() -> dict[str, Any]:
        seconds = request.args.get("seconds", type=float)
        if seconds is None:
            abort(400)
        for kind in request.args.getlist("kind"):
            tasks[kind].enqueue(request.args.get("name", kind), seconds)
        return {"pid": os.getpid()}

    @app.get("/slow")
    def slow() -> dict[str, Any]:
        """A request that takes its time, and enqueues at its end."""
        write("request", "slow")
        time.sleep(float(request.args["seconds"]))
        late = request.args.get("late")
        if late is not None:
            sync.enqueue("late", float(late))
        write("response", "slow")
        return {"pid": os.getpid()}

    @app.get("/hang")
    def hang() -> dict[str, Any]:
        """A request that never ends, and gives greenlets no chance either."""
        while True:
            sum(range(1000))

    if os.environ.get("ENQUEUE_AT_IMPORT"):
        with app.app_context():
            sync.enqueue("master", float(os.environ["ENQUEUE_AT_IMPORT"]))
    return app
