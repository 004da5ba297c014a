"""Keys of items in a Celery cluster: while one is queued or running, enqueueing gives that one back."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_background import Status, WorkItem, signals
from flask_background.errors import BrokerError, ItemCancelledError, UnsupportedError

from ..helpers import BOUND, receiving, until
from ..redis_server import Redis
from . import shop
from .conftest import Worker

pytestmark = pytest.mark.usefixtures("worker", "app")

MakeApp = Callable[..., Flask]


def is_free(redis: Redis) -> bool:
    """Whether nobody has a key."""
    return not redis.keys(1, "*:key:*")


def held(worker: Worker, name: str, key: str) -> WorkItem[Any]:
    """An item that runs until it is let go."""
    item = shop.hold.using(key=key).enqueue(name)
    worker.wait_for_note(f"{name} runs")
    return item


def test_one_in_flight(app: Flask, make_app: MakeApp, worker: Worker, redis: Redis) -> None:
    """From queued to the end, every process gets the handle of the one item; then the key is free again."""
    first = held(worker, "one", "receipt-42")
    assert shop.hold.using(key="receipt-42").enqueue("never") is first
    with make_app().app_context():
        with receiving(signals.item_enqueued, app) as enqueued:
            found = shop.hold.using(key="receipt-42").enqueue("never")
        assert (found.id, found.status, enqueued) == (first.id, Status.RUNNING, [])
        assert shop.echo.using(key="receipt-42").enqueue(1).result(BOUND) == 1
        assert shop.echo.using(key="receipt-43").enqueue(2).result(BOUND) == 2
    worker.let_go("one")
    assert first.result(BOUND) == found.result(BOUND) == "one"
    second = shop.hold.using(key="receipt-42").enqueue("one")
    assert second.id != first.id
    assert second.result(BOUND) == "one"
    until(lambda: is_free(redis))
    assert not [line for line in worker.notes if "never" in line]
    told = redis.all_text()
    assert first.id in told
    assert "receipt" not in told


def test_many_at_once(make_app: MakeApp, worker: Worker) -> None:
    """Of many threads that enqueue at the same time one is first, and the others get its item."""
    apps, items = [make_app() for _ in range(4)], []

    def enqueue(app: Flask) -> None:
        with app.app_context():
            items.append(shop.hold.using(key="many").enqueue("many"))

    threads = [threading.Thread(target=enqueue, args=(apps[number % 4],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(items) == 16
    assert len({item.id for item in items}) == 1
    worker.let_go("many")
    assert items[0].result(BOUND) == "many"
    assert len([line for line in worker.notes if line.startswith("many runs")]) == 1


def test_attempts_keep_it(app: Flask, redis: Redis) -> None:
    """An item keeps its key between two attempts."""
    task = shop.flaky.using(key="flaky", backoff=1.0)
    with receiving(signals.item_enqueued, app) as enqueued:
        item = task.enqueue()
        until(lambda: item.attempt and item.status is Status.QUEUED)
        assert task.enqueue() is item
    assert enqueued == [{"item": item}]
    assert item.result(BOUND) == 3
    until(lambda: is_free(redis))


def test_ends_free_it(redis: Redis, worker: Worker) -> None:
    """Every end frees the key: failed, cancelled early, asked to end, parked, or killed by Celery."""
    assert shop.fail.using(key="end").enqueue("pity").exception(BOUND) is not None
    later = shop.echo.using(key="end", delay=86_400).enqueue(1)
    assert shop.echo.using(key="end").enqueue(2) is later
    assert later.cancel()
    assert is_free(redis)
    asked = held(worker, "asked", "end")
    assert asked.cancel()
    assert asked.wait(BOUND)
    assert shop.die.using(key="end").enqueue(99).exception(60) is not None
    assert shop.ignore_everything.using(key="end").enqueue().exception(60) is not None
    until(lambda: is_free(redis))


def test_process_dies_before_it_sends(
    redis: Redis, app: Flask, script: Callable[..., Any], worker: Worker
) -> None:
    """A process that dies between the record and the message leaves an item that runs, and has its key."""
    program = script(
        f"""
        import os
        from flask_background.celery.client.publisher import Publisher
        from tests.celery import shop
        Publisher.send = lambda *args, **options: os._exit(7)
        urls = {{"broker_url": "{redis.url}/0", "result_backend": "{redis.url}/1"}}
        app = shop.create_app(BACKGROUND_CELERY=urls)
        with app.app_context():
            shop.hold.using(key="crash").enqueue("crash")
        """
    )
    assert program.ends() == 7, program.said
    item = shop.hold.using(key="crash").enqueue("never")
    worker.wait_for_note("crash runs")
    worker.let_go("crash")
    assert item.result(BOUND) == "crash"
    until(lambda: is_free(redis))


def test_refused(make_app: MakeApp, redis: Redis) -> None:
    """An item that cannot be sent leaves its key to the next one."""
    gone = make_app(celery={"broker_url": "redis://127.0.0.1:1/0"})
    with gone.app_context(), pytest.raises(BrokerError):
        shop.echo.using(key="refused").enqueue(1)
    assert is_free(redis)


def test_with_the_commit(make_app: MakeApp, worker: Worker) -> None:
    """Of two that wait for a commit the second is dropped; one in flight is given back at once."""
    from flask_sqlalchemy import SQLAlchemy

    app = make_app()
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    task = shop.hold.using(when="commit", key="commit")
    with app.app_context():
        first, second = task.enqueue("commit"), task.enqueue("never")
        db.session.commit()
        with pytest.raises(ItemCancelledError, match=f"item {first.id}, which has the same key"):
            second.result(0)
        assert task.enqueue("never") is first
        db.session.rollback()
        worker.let_go("commit")
        assert first.result(BOUND) == "commit"
        db.session.remove()
        db.engine.dispose()


def test_uploads(make_app: MakeApp, worker: Worker, tmp_path: Path) -> None:
    """The upload of a call that is answered with another item is not stored."""
    with make_app(uploads=tmp_path).app_context():
        task = shop.describe.using(key="upload", delay=86_400)
        first = task.enqueue([FileStorage(io.BytesIO(b"1"), "a")])
        assert task.enqueue([FileStorage(io.BytesIO(b"2"), "b")]) is first
        assert [file.name for file in tmp_path.iterdir()] == [f"{first.id}-0"]
        assert first.cancel()


def test_far_delays_are_known(make_app: MakeApp, app: Flask) -> None:
    """An item that waits for longer than results are kept is known, and has its key, until its time."""
    with make_app(celery={"result_expires": 1}).app_context():
        task = shop.echo.using(key="far", delay=3_600)
        item = task.enqueue(1)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 1.5)
    found = shop.background.get(item.id)
    assert found is not None
    assert task.enqueue(1).id == found.id
    assert found.cancel()


@pytest.mark.parametrize("results", ["file://{}", "cache+memory://"])
def test_needs_redis(make_app: MakeApp, tmp_path: Path, results: str) -> None:
    """With another result backend a key is refused, and the error says what is missing."""
    with make_app(celery={"result_backend": results.format(tmp_path)}).app_context():
        assert shop.echo.enqueue(1).status is Status.QUEUED
        with pytest.raises(UnsupportedError, match=r"takes Redis as Celery's result_backend"):
            shop.echo.using(key="k").enqueue(1)
