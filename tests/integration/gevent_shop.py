"""An app whose items do under gevent what they like: share locks with views, log, run programs, await."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import sqlalchemy
from flask import Flask, request
from gevent.event import Event

from flask_background import Background, Status, WorkItem

log = logging.getLogger(__name__)
lock = threading.Lock()
engine = sqlalchemy.create_engine(
    "sqlite://", poolclass=sqlalchemy.pool.QueuePool, pool_size=1, max_overflow=0, pool_timeout=20
)


def sell() -> None:
    """Take a lock that views take, too, again and again."""
    for _ in range(10):
        with lock:
            time.sleep(0.001)


def write() -> None:
    """Log a good deal."""
    for number in range(20):
        log.warning("line %d", number)
        time.sleep(0)


def query() -> None:
    """Use the only connection."""
    with engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar_one() == 1
        time.sleep(0.002)


def convert() -> None:
    """Run a program."""
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3


def answer(queue: Any) -> None:
    """Run in a child process."""
    queue.put(42)


def compute() -> None:
    """Start processes by multiprocessing."""
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=answer, args=(queue,))
        process.start()
        assert queue.get() == 42
        process.join(20)
        assert process.exitcode == 0


async def to_thread() -> None:
    """Have something done on a thread."""
    assert await asyncio.to_thread(lambda: (time.sleep(0.01), log.warning("thread"), 7)[2]) == 7


async def connect() -> None:
    """Ask this server."""
    port = int(os.environ["SHOP_PORT"])
    reader, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET)
    writer.write(b"GET /pid HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.")
    writer.close()
    await writer.wait_closed()


async def execute() -> None:
    """Run a program, with a pipe."""
    if sys.version_info >= (3, 12):  # there asyncio's own programs fail in a busy process, in views too
        program = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", "echo out; exit 3"], stdout=subprocess.PIPE
        )
        assert (program.stdout, program.returncode) == (b"out\n", 3)
        return
    program = await asyncio.create_subprocess_exec("sh", "-c", "echo out; exit 3", stdout=subprocess.PIPE)
    assert (await program.communicate(), program.returncode) == ((b"out\n", None), 3)


def create_app() -> Flask:
    """Make the app."""
    app = Flask(__name__)
    background = Background(app)
    functions = (sell, write, query, convert, compute, to_thread, connect, execute)
    tasks = {function.__name__: background.task(function) for function in functions}
    items: list[WorkItem[Any]] = []

    @app.get("/pid")
    def pid() -> dict[str, int]:
        return {"pid": os.getpid()}

    @app.get("/enqueue")
    def enqueue() -> dict[str, int]:
        os.environ["SHOP_PORT"] = request.host.partition(":")[2]
        for number in range(int(request.args["count"])):
            for name in request.args.getlist("task"):
                items.append(tasks[name].enqueue())
            if number % 5 == 0:
                sell()
        return {"count": len(items)}

    @app.get("/view")
    def view() -> dict[str, int]:
        sell()
        write()
        query()
        return {}

    @app.get("/wait")
    def wait() -> dict[str, Any]:
        for item in items:
            item.wait(30)
        bad = [
            f"{item.task_name} {item.status} {item.exception(0)!r}"
            for item in items
            if item.status is not Status.SUCCEEDED
        ]
        return {"count": len(items), "bad": bad}

    @app.get("/emit")
    def emit() -> dict[str, float]:
        """The seconds until a greenlet sees an event that an item has set, as Flask-SocketIO's emit does."""
        event, at = Event(), []

        def work() -> None:
            time.sleep(0.05)
            at.append(time.monotonic())
            event.set()

        background.enqueue(work)
        event.wait(20)
        return {"late": time.monotonic() - at[0]}

    return app
