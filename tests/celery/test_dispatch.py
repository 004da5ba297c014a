"""Items that cannot be sent, with uploads or a key."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_background import Status
from flask_background.errors import BrokerError

from ..helpers import BOUND, until
from . import shop
from .conftest import Redis, Worker

pytestmark = pytest.mark.usefixtures("redis_returns")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder for uploads."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


@pytest.fixture
def app(make_app: Callable[..., Flask], store: Path, tmp_path: Path) -> Iterator[Flask]:
    """A web process, in its context."""
    app = make_app(uploads=str(store), journal=tmp_path / "journal", kill_after=0.5)
    with app.app_context():
        yield app


def upload() -> FileStorage:
    """A picture."""
    return FileStorage(io.BytesIO(b"picture"), filename="a.png")


def test_uploads_of_an_item_that_waits(
    app: Flask, redis: Redis, store: Path, make_worker: Callable[..., Worker]
) -> None:
    """Uploads stay in the store until their item has run, or was cancelled."""
    redis.stop()
    waits = shop.read_and_fail.using(durable=True, backoff=0).enqueue(upload(), 1)
    withdrawn = shop.read_and_fail.using(durable=True).enqueue(upload(), 0)
    assert len(list(store.iterdir())) == 2
    assert withdrawn.cancel()
    redis.start()
    until(lambda: len(list(store.iterdir())) == 1)
    worker = make_worker(uploads=str(store))
    assert waits.result(60) == "picture"
    assert [line for line in worker.notes if "read" in line] == ["read picture 1", "read picture 2"]
    assert withdrawn.status is Status.CANCELLED
    until(lambda: not list(store.iterdir()))


@pytest.mark.parametrize("when", ["now", "response"])
def test_uploads_of_an_item_that_runs_here(app: Flask, redis: Redis, store: Path, when: str) -> None:
    """An item that runs here reads the view's uploads, and none is left in the store."""
    redis.stop()
    read: list[bytes] = []
    task = shop.background.task(name=f"shop.read_{when}", fallback="local", backend="celery")(
        lambda picture: read.append(picture.read())
    )
    try:
        app.add_url_rule("/", "index", lambda: task.using(when=when).enqueue(upload()).id)
        with app.test_client() as client:
            item_id = client.get("/", buffered=True).text
        item = shop.background.get(item_id)
        assert item is not None
        assert item.wait(BOUND)
    finally:
        del shop.background._registry.tasks[task.name]
    assert read == [b"picture"]
    assert not list(store.iterdir())


def test_key(app: Flask, redis: Redis) -> None:
    """An item with a key is refused, because the process cannot ask whether another item has the key."""
    redis.stop()
    for task in (shop.echo.using(durable=True), shop.echo.using(fallback="local")):
        with pytest.raises(BrokerError):
            task.using(key="receipt-42").enqueue(1)
    assert shop.echo.using(durable=True).enqueue(1).status is Status.QUEUED


def test_scripts_are_forgotten(app: Flask, redis: Redis) -> None:
    """A Redis that has lost its scripts, as when it was started anew, gets them again."""
    for _ in range(2):
        redis._ask(b"SCRIPT FLUSH")
        item = shop.echo.enqueue(1)
        assert item.status is Status.QUEUED
        assert redis.keys(1, f"*{item.id}*")
