"""An app whose items go to Celery: the tests enqueue them, and workers in other processes run them."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g, request, url_for
from werkzeug.datastructures import FileStorage

from flask_background import Background, CancelReason, current_item
from flask_background.errors import EnqueuedInChildError

background = Background()


def create_app(**settings: Any) -> Flask:
    """The app, with Celery's settings from the environment."""
    app = Flask("shop")
    celery = json.loads(os.environ.get("SHOP_CELERY", "null"))
    app.config.update(BACKGROUND_BACKEND="celery", BACKGROUND_CELERY=celery)
    app.config.from_prefixed_env()
    app.config.update(settings)
    app.add_url_rule("/orders/<int:number>", "order", lambda number: str(number))
    app.add_url_rule("/photos", "photos", receive, methods=["POST"])
    app.teardown_appcontext(lambda error: g.get("teardown", lambda: None)())
    background.init_app(app)
    return app


def note(line: object) -> None:
    """Write something down that the test can read."""
    with Path(os.environ["SHOP_NOTES"]).open("a") as file:
        file.write(f"{line}\n")


def receive() -> dict[str, str]:
    """Take uploads, and enqueue an item with them."""
    return {"id": describe.enqueue(request.files.getlist("photo")).id}


@background.state_processor
def who() -> dict[str, Any]:
    """Copy the user's number into the state."""
    return {"user": 7}


@background.task
def echo(value: Any) -> Any:
    """Give the value back."""
    return value


@background.task
def look_around() -> dict[str, Any]:
    """Return what an item sees."""
    state = current_item.state
    g.teardown = lambda: note("teardown")
    return {
        "app": current_app.name,
        "id": current_item.id,
        "attempt": current_item.attempt,
        "path": state.path if state else None,
        "user": state.values["user"] if state else None,
        "trace": state.traceparent if state else None,
        "url": url_for("order", number=7, _external=True) if state else None,
        "pid": os.getpid(),
    }


@background.task
async def add(a: int, b: int) -> int:
    """A coroutine."""
    await asyncio.sleep(0.01)
    return a + b + current_item.attempt


@background.task
async def sleep(name: str) -> None:
    """A coroutine that cleans up when it is cancelled."""
    note(f"{name} runs")
    try:
        await asyncio.sleep(60)
    finally:
        note(f"{name} cleans up")


@background.task
def fail(what: str) -> None:
    """Raise something."""
    if what == "exit":
        raise SystemExit(3)
    raise ValueError(what)


@background.task(max_attempts=3, backoff=0.2)
def flaky() -> int:
    """Succeed the third time."""
    note(f"attempt {current_item.attempt}")
    if current_item.attempt < 3:
        raise OSError("not yet")
    return current_item.attempt


@background.task
def hold(name: str) -> str:
    """Run until somebody makes a file of that name beside the notes, or the token fires."""
    note(f"{name} runs in {os.getpid()}")
    current_item.report_progress(1, 2, "halfway")
    path = Path(os.environ["SHOP_NOTES"]).parent / name
    while not path.exists():
        if current_item.token.wait(0.05):
            reason = current_item.token.reason
            note(f"{name} was asked to end: {reason.value if reason else None}")
            if reason is not CancelReason.SHUTDOWN:
                current_item.token.raise_if_cancelled()
            time.sleep(0.05)
    return name


@background.task
def jam(name: str) -> str:
    """Keep the interpreter to itself in C, for longer than any test, unless there is a file of that name."""
    note(f"{name} runs")
    if not (Path(os.environ["SHOP_NOTES"]).parent / name).exists():
        re.match(r"(a+)+$", "a" * 40 + "b")
    return name


@background.task(timeout=0.5)
def endure() -> None:
    """Wait for the token, whose time comes."""
    assert current_item.token.wait(20)
    current_item.token.raise_if_cancelled()


@background.task(timeout=0.5)
def ignore_everything() -> None:
    """Take no heed of the token."""
    time.sleep(60)


@background.task
def die(times: int) -> int:
    """Kill the process, so many times."""
    note(f"dies {current_item.attempt}")
    if current_item.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_item.attempt


@background.task
def enqueue_another() -> str:
    """Enqueue an item of another task."""
    return look_around.enqueue().id


@background.task
def enqueue_durable() -> list[str]:
    """Enqueue for the journal of this machine, and try an item in memory, which is refused."""
    item = echo.using(backend="local", durable=True).enqueue(42)
    try:
        echo.using(backend="local").enqueue(42)
    except EnqueuedInChildError as error:
        return [item.id, type(error).__name__]
    return [item.id]


@background.task
def odd_result() -> Any:
    """Return an object that is not data."""
    return object()


@background.task(durable=True)
def book(number: int, seconds: float = 0.0) -> int:
    """Write down that the item has run, and whether another run of the item was on its way."""
    path = Path(os.environ["SHOP_NOTES"]).parent / f"books-{number}"
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        note(f"book {number} runs twice at once")
    time.sleep(seconds)
    path.unlink(missing_ok=True)
    note(f"book {number} done")
    return number


@background.task(max_crashes=50)
def page(number: int, seconds: float) -> int:
    """Write down when the item runs and ends, and whether another run of it is alive in any process."""
    with Path(os.environ["SHOP_NOTES"]).parent.joinpath(f"page-{number}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(f"page {number} runs beside itself")
        note(f"page {number} begins in {os.getpid()} of {os.getppid()} at {time.monotonic()}")
        time.sleep(seconds)
        note(f"page {number} ends")
    return number


@background.task
def describe(uploads: list[FileStorage]) -> list[Any]:
    """Return what an item sees of its uploads."""
    seen = []
    for number, upload in enumerate(uploads):
        head = upload.stream.read(4)
        upload.stream.seek(0)
        copy = Path(os.environ["SHOP_NOTES"]).parent / f"copy-{current_item.id}-{number}"
        upload.save(copy)
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        seen.append([type(upload).__name__, upload.filename, upload.name, upload.content_type, head, digest])
        seen[-1].append(upload.headers.get("X-Odd"))
    return seen


@background.task(max_attempts=3, backoff=0.1)
def read_and_fail(upload: FileStorage, times: int) -> str:
    """Read the whole upload, and fail so many times."""
    text = upload.read().decode()
    note(f"read {text} {current_item.attempt}")
    if current_item.attempt <= times:
        raise OSError("not yet")
    return text


@background.task
def hold_upload(upload: FileStorage, name: str) -> str:
    """Hold, as ``hold`` does, and then read the upload."""
    hold(name)
    return upload.read().decode()


@background.task
def die_with(upload: FileStorage) -> None:
    """Kill the process."""
    die(99)


@background.task(timeout=0.5)
def ignore_everything_with(upload: FileStorage) -> None:
    """Take no heed of the token."""
    time.sleep(60)
