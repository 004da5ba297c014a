"""Items in a Celery cluster: a real Redis, and a worker in another process, which shares nothing else."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery.result import AsyncResult
from flask import Flask
from kombu import pools
from werkzeug.datastructures import FileStorage

from flask_background import Status, signals
from flask_background.celery.handle import CeleryItem
from flask_background.errors import (
    BrokerError,
    ConfigurationError,
    ItemCancelledError,
    ItemFailedError,
    NotFinishedError,
    ResultLostError,
    SerializationError,
)

from ..helpers import BOUND, receiving, until
from . import shop
from .conftest import Redis, Worker, on_both

pytestmark = [pytest.mark.usefixtures("worker", "app"), on_both]


def test_way_of_an_item(app: Flask) -> None:
    """An item is enqueued here, runs there, and is known here."""
    with receiving(signals.item_enqueued, app) as enqueued:
        item = shop.echo.enqueue(42)
    assert enqueued == [{"item": item}]
    assert item.result(BOUND) == 42
    assert (item.status, item.exception(0), item.attempt) == (Status.SUCCEEDED, None, 1)
    assert item.started_at is not None
    assert item.finished_at is not None
    assert item.enqueued_at <= item.started_at <= item.finished_at
    assert not item.cancel()


def test_what_an_item_sees(app: Flask, worker: Worker) -> None:
    """App context, state, URLs, trace and teardown are as in this process."""
    with app.test_request_context(
        "/cart", headers={"traceparent": "00-1"}, base_url="https://example.com/berlin"
    ):
        item = shop.look_around.enqueue()
    seen = item.result(BOUND)
    assert seen.pop("pid") in worker.children
    assert seen == {
        "app": "shop",
        "id": item.id,
        "attempt": 1,
        "path": "/cart",
        "user": 7,
        "trace": "00-1",
        "url": "https://example.com/berlin/orders/7",
    }
    worker.wait_for_note("teardown")
    assert shop.look_around.enqueue().result(BOUND)["path"] is None


def test_an_item_enqueues_another(app: Flask) -> None:
    """An item's state goes on to the item that it enqueues."""
    with app.test_request_context("/cart"):
        item = shop.enqueue_another.enqueue()
    inner = shop.background.get(item.result(BOUND))
    assert inner is not None
    assert inner.result(BOUND)["path"] == "/cart"


def test_data() -> None:
    """Arguments and results come back equal, and of the same types; other types are refused by name."""
    value = {
        "price": Decimal("1.50"),
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "pair": (1, b"2"),
        " t": [None],
    }
    assert shop.echo.enqueue(value).result(BOUND) == value
    assert shop.echo.enqueue(value=value).result(BOUND) == value
    with pytest.raises(SerializationError, match="value"):
        shop.echo.enqueue({1, 2})
    with pytest.raises(TypeError, match="missing"):
        shop.echo.enqueue()
    with pytest.raises(ResultLostError):
        shop.odd_result.enqueue().result(BOUND)


def test_coroutines() -> None:
    """A coroutine task runs there, and here a coroutine can await any item."""

    async def view() -> Any:
        return await shop.add.enqueue(1, 2)

    assert asyncio.run(view()) == 4


def test_failures(app: Flask, worker: Worker) -> None:
    """An item that fails does so with its error's type, text and traceback, and takes no process with it."""
    before = worker.children
    item = shop.fail.enqueue("what a pity")
    error = item.exception(BOUND)
    assert isinstance(error, ItemFailedError)
    assert "ValueError: what a pity" in str(error)
    assert "in fail" in error.__notes__[0]
    assert item.status is Status.FAILED
    celery = app.extensions["celery"]
    until(lambda: AsyncResult(item.id, app=celery).traceback)  # Celery writes it, after our record
    result = AsyncResult(item.id, app=celery)
    assert result.state == "FAILURE"
    assert "what a pity" in str(result.result)
    found = until(lambda: AsyncResult(item.id, app=app.extensions["celery"]).traceback)  # Celery adds it
    assert "in fail" in found
    assert "SystemExit: 3" in str(shop.fail.enqueue("exit").exception(BOUND))
    assert worker.log.count(f"Item {item.id} (tests.celery.shop.fail) failed") == 1
    assert worker.children == before


def test_attempts(worker: Worker) -> None:
    """A failed run is followed by others, after the back-off, under the same id."""
    began = time.monotonic()
    item = shop.flaky.enqueue()
    assert item.result(BOUND) == 3
    assert item.attempt == 3
    assert time.monotonic() - began >= 0.4
    assert worker.notes.count("attempt 1") == 1
    last = shop.flaky.using(max_attempts=2, backoff=0).enqueue()
    assert "not yet" in str(last.exception(BOUND))
    assert last.attempt == 2


def test_timeout() -> None:
    """A run whose time is up has its token fired; one that takes no heed is killed, and fails as well."""
    item = shop.endure.enqueue()
    assert "ItemTimeoutError" in str(item.exception(BOUND))
    assert shop.endure.using(timeout=0.2, max_attempts=2, backoff=0).enqueue().exception(BOUND) is not None
    killed = shop.ignore_everything.enqueue()
    assert "ItemTimeoutError" in str(killed.exception(BOUND))
    assert killed.status is Status.FAILED
    assert shop.echo.enqueue(1).result(BOUND) == 1


def test_progress_and_cancel_from_another_process(make_app: Callable[..., Flask], worker: Worker) -> None:
    """Any process finds an item by its id, sees how far it is, and can have it end."""
    item = shop.hold.enqueue("cancelled")
    other = make_app()
    with other.app_context():
        found = shop.background.get(item.id)
        assert isinstance(found, CeleryItem)
        assert found is not item
        assert found.task_name == "tests.celery.shop.hold"
        assert found.state == item.state
        until(lambda: found.progress is not None)
        assert (found.progress, found.status) == ((1, 2, "halfway"), Status.RUNNING)
        with pytest.raises(NotFinishedError):
            found.result(0)
        assert found.cancel()
    assert item.wait(BOUND)
    assert item.status is found.status is Status.CANCELLED
    with pytest.raises(ItemCancelledError):
        item.result(0)
    assert "cancelled was asked to end: requested" in worker.notes


def test_cancel_a_coroutine(worker: Worker) -> None:
    """A running coroutine is cancelled at its next await, and cleans up."""
    item = shop.sleep.enqueue("sleeper")
    worker.wait_for_note("sleeper runs")
    assert item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED
    assert "sleeper cleans up" in worker.notes


def test_with_the_commit(make_app: Callable[..., Flask]) -> None:
    """An item that waits for the commit is sent then, and dropped when that does not come."""
    from flask_sqlalchemy import SQLAlchemy

    app = make_app()
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    task = shop.echo.using(when="commit")
    with app.app_context():
        kept = task.using(delay=0.1).enqueue(1)
        assert not kept.wait(0.1)
        db.session.commit()
        assert kept.result(BOUND) == 1
        lost = task.enqueue(2)
        db.session.rollback()
        assert lost.status is Status.CANCELLED
        db.session.remove()
        db.engine.dispose()


def test_get_what_nobody_knows() -> None:
    """An id of no item is found nowhere, whatever it looks like."""
    for unknown in ("0" * 24, "", "../..", "\0", "\ud800"):
        assert shop.background.get(unknown) is None


@pytest.fixture
def busy(worker: Worker) -> Iterator[list[str]]:
    """Both of the worker's processes run an item, so others wait."""
    names = [f"busy-{time.monotonic_ns()}-{number}" for number in range(2)]
    items = [shop.hold.enqueue(name) for name in names]
    for name in names:
        worker.wait_for_note(f"{name} runs")
    yield names
    for name in names:
        worker.let_go(name)
    for item in items:
        assert item.wait(BOUND)


def test_cancel_queued(app: Flask, busy: list[str], worker: Worker) -> None:
    """A queued item that is cancelled never starts, and one signal says so where it was cancelled."""
    name = f"never-{time.monotonic_ns()}"
    item = shop.hold.enqueue(name)
    assert item.status is Status.QUEUED
    assert not item.wait(0.1)
    with receiving(signals.item_finished, app) as finished:
        assert item.cancel()
    assert finished == [{"item": item}]
    assert (item.status, item.attempt, item.cancel()) == (Status.CANCELLED, 0, False)
    for busy_one in busy:
        worker.let_go(busy_one)
    assert shop.echo.enqueue(1).result(BOUND) == 1
    assert shop.echo.enqueue(1).result(BOUND) == 1
    assert not [line for line in worker.notes if name in line]


def test_revoked_by_others(app: Flask, busy: list[str], worker: Worker) -> None:
    """An item that is revoked by Celery's own means is cancelled."""
    item = shop.echo.enqueue(1)
    pools.reset()  # all of a process share Celery's own; another test's server may have been stopped since
    control = app.extensions["celery"].control
    control.revoke(item.id)
    until(lambda: item.id in str(control.inspect().revoked()))
    for busy_one in busy:
        worker.let_go(busy_one)
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED


def test_later() -> None:
    """An item does not start before its time, and one that waits for it can be taken back."""
    began = time.time()
    task = shop.look_around
    last = task.using(delay=timedelta(seconds=1.2)).enqueue()
    second = task.using(run_at=datetime.now(UTC) + timedelta(seconds=0.4)).enqueue()
    waiting = task.using(delay=86_400).enqueue()
    assert task.using(run_at=datetime(2000, 1, 1, tzinfo=UTC)).enqueue().wait(BOUND)
    assert last.wait(BOUND)
    assert last.started_at is not None
    assert second.started_at is not None
    assert last.started_at.timestamp() - began >= 1.2
    assert second.started_at.timestamp() - began >= 0.4
    assert waiting.status is Status.QUEUED
    assert waiting.cancel()
    assert waiting.status is Status.CANCELLED


def test_with_the_response(app: Flask) -> None:
    """An item that waits for the response is sent when that is closed, and not if its view fails."""
    task, items = shop.echo.using(when="response"), []

    @app.get("/<what>")
    def view(what: str) -> str:
        items.append(task.enqueue(what))
        if what == "bad":
            raise KeyError(what)
        return items[-1].id

    with app.test_client().get("/good") as response, app.app_context():
        item = shop.background.get(response.text)
        assert item is items[0]
        assert not item.wait(0.1)
        assert item.status is Status.QUEUED
    assert item.result(BOUND) == "good"
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert app.test_client().get("/bad").status_code == 500
    with pytest.raises(ItemCancelledError, match="view ended with KeyError"):
        items[1].result(0)


def test_what_celery_cannot_do(app: Flask) -> None:
    """Uploads that have nowhere to go are refused; callables without a name stay here."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        shop.echo.using(executor="nowhere").enqueue(1)
    upload = FileStorage(io.BytesIO(b"picture"), "a.png")
    with pytest.raises(SerializationError, match=r"set BACKGROUND_UPLOADS to .* or pass its content"):
        shop.echo.enqueue(upload)
    assert upload.read() == b"picture"
    assert shop.background.enqueue(lambda: "here").result(BOUND) == "here"
    assert shop.echo.using(backend="local").enqueue(1).result(BOUND) == 1
    assert not isinstance(shop.echo.using(backend="immediate").enqueue(1), CeleryItem)


def test_task_that_the_worker_does_not_have(app: Flask, worker: Worker) -> None:
    """Items of an unknown task wait for a worker with newer code; one line says so, without arguments."""
    background = app.extensions["background"]
    task = background.task(name=f"shop.only_here_{time.monotonic_ns()}")(len)
    try:
        items = [task.enqueue("top secret") for _ in range(4)]
        until(lambda: f"has no task {task.name}: its items wait" in worker.log)
        assert shop.echo.enqueue(1).result(BOUND) == 1
        assert {item.status for item in items} == {Status.QUEUED}
        assert all(item.cancel() for item in items)
    finally:
        del background._registry.tasks[task.name]
    assert worker.log.count(f"has no task {task.name}") <= len(worker.children)
    assert "top secret" not in worker.log


def test_wait_outlasts_an_outage(app: Flask, worker: Worker, redis: Redis) -> None:
    """A wait goes on while Redis is away for a moment; a question for the status raises."""
    item = shop.hold.enqueue("away")
    worker.wait_for_note("away runs")
    waiting = threading.Thread(target=item.wait, args=(60,))
    redis.pause()
    try:
        with pytest.raises(BrokerError):
            item.status  # noqa: B018
        with pytest.raises(BrokerError):
            item.wait(0.1)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
    finally:
        redis.resume()
    worker.let_go("away")
    waiting.join(60)
    assert item.result(0) == "away"
