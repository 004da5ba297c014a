"""Uploads of items in a Celery cluster: they travel by a folder that the processes share, or by a URL."""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage, Headers
from werkzeug.test import encode_multipart

from flask_background import Status, signals
from flask_background.app_state import state_of
from flask_background.celery import uploads as stored
from flask_background.celery.uploads import Remote
from flask_background.errors import (
    BrokerError,
    ConfigurationError,
    ItemCancelledError,
    PayloadTooLargeError,
    UnsupportedError,
    UploadError,
)

from ..helpers import BOUND, our_threads, receiving, until
from ..redis_server import Redis
from . import shop
from .conftest import Broker, Worker

MakeApp = Callable[..., Flask]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def worker(broker: Broker, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that has the folder."""
    worker = Worker(tmp_path_factory.mktemp("worker"), broker, kill_after=0.5, uploads=str(store))
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.kill()


@pytest.fixture
def app(make_app: MakeApp, store: Path) -> Iterator[Flask]:
    """An app that has the folder, in its context. In the end nothing is left there."""
    app = make_app(kill_after=0.5, uploads=store)
    with app.app_context():
        yield app
    until(lambda: not list(store.iterdir()))


def upload(content: bytes = b"picture", **options: Any) -> FileStorage:
    """An upload as it comes from a form."""
    return FileStorage(io.BytesIO(content), **{"filename": "a.png", **options})


@pytest.fixture
def busy(worker: Worker) -> Iterator[Callable[[], None]]:
    """Both of the worker's processes run an item until this is called, so others wait."""
    names = [f"busy-{time.monotonic_ns()}-{number}" for number in range(2)]
    items = [shop.hold.enqueue(name) for name in names]
    for name in names:
        worker.wait_for_note(f"{name} runs")

    def end() -> None:
        for name in names:
            worker.let_go(name)
        for item in items:
            assert item.wait(BOUND)

    yield end
    end()


def test_from_a_form(app: Flask, worker: Worker) -> None:
    """A visitor's upload is the same in the item as in the view: small or large, with an odd name too."""
    contents = [b"\x89PNG small", os.urandom(3_000_000)]
    names, kinds = ["../../étc/passwd", "b.bin"], ["image/png", "application/x-b"]
    sent = [
        upload(content, filename=name, content_type=kind)
        for content, name, kind in zip(contents, names, kinds, strict=True)
    ]
    boundary, body = encode_multipart({"photo": sent})
    kind = f"multipart/form-data; boundary={boundary}"
    response = app.test_client().post("/photos", data=body, content_type=kind)
    item = shop.background.get(response.get_json()["id"])
    assert item is not None
    assert item.result(BOUND) == [
        ["FileStorage", name, "photo", kind, content[:4], hashlib.sha256(content).hexdigest(), None]
        for name, kind, content in zip(names, kinds, contents, strict=True)
    ]


def test_headers_and_twice_the_same(app: Flask, worker: Worker) -> None:
    """An upload's headers come along; an upload that is passed twice is stored once."""
    with app.app_context():
        given = upload(headers=Headers({"X-Odd": "ä, b"}), content_type="image/png; q=1")
        item = shop.describe.enqueue([given, given])
        first, second = item.result(BOUND)
    assert first[:4] == ["FileStorage", "a.png", None, "image/png; q=1"]
    assert first[-1] == "ä, b"
    assert first[:4] == second[:4]


def test_files(app: Flask, store: Path, worker: Worker, busy: Callable[[], None]) -> None:
    """While its item waits and runs, an upload is one file, private, under the item's id alone."""
    item = shop.hold_upload.enqueue(upload(filename="../../evil"), "files")
    (file,) = store.iterdir()
    assert file.name == f"{item.id}-0"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"picture"
    busy()
    worker.wait_for_note("files runs")
    assert file.exists()
    worker.let_go("files")
    assert item.result(BOUND) == "picture"


def test_attempts(app: Flask, worker: Worker) -> None:
    """Each attempt has the upload from its beginning; the file goes after the last attempt."""
    name = f"a{time.monotonic_ns()}"
    item = shop.read_and_fail.enqueue(upload(name.encode()), 2)
    assert item.result(BOUND) == name
    assert [f"read {name} {number}" for number in (1, 2, 3)] == [
        line for line in worker.notes if f"read {name}" in line
    ]
    assert shop.read_and_fail.using(max_attempts=1).enqueue(upload(), 9).exception(BOUND) is not None


def test_ends_that_are_no_runs(app: Flask, store: Path, worker: Worker, busy: Callable[[], None]) -> None:
    """The file goes when its item is cancelled before a run, or revoked by Celery."""
    items = [shop.describe.enqueue([upload()]) for _ in range(2)]
    later = shop.describe.using(delay=86_400).enqueue([upload()])
    assert len(list(store.iterdir())) == 3
    assert items[0].cancel()
    assert later.cancel()
    (file,) = store.iterdir()
    assert file.name == f"{items[1].id}-0"
    app.extensions["celery"].control.revoke(items[1].id)
    assert items[1].wait(BOUND)
    busy()
    until(lambda: not list(store.iterdir()))


def test_processes_that_are_killed(app: Flask, worker: Worker) -> None:
    """The file goes when its item is parked, and when Celery kills a run that takes too long."""
    poison = shop.die_with.enqueue(upload())
    killed = shop.ignore_everything_with.enqueue(upload())
    assert "was parked" in str(poison.exception(60))
    assert "ItemTimeoutError" in str(killed.exception(60))
    assert killed.status is Status.FAILED


def test_cancel_a_run(app: Flask, worker: Worker) -> None:
    """The file goes with a run that is asked to end."""
    item = shop.hold_upload.enqueue(upload(), "asked")
    worker.wait_for_note("asked runs")
    assert item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED


def test_with_the_response(app: Flask, store: Path, worker: Worker) -> None:
    """A file is stored in the view, and goes with its item if the view fails."""
    items = []

    @app.post("/<what>")
    def view(what: str) -> str:
        items.append(shop.describe.using(when="response").enqueue([upload()]))
        assert len(list(store.iterdir())) == 1
        if what == "bad":
            raise KeyError(what)
        return "good"

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert app.test_client().post("/bad").status_code == 500
    assert not list(store.iterdir())
    with pytest.raises(ItemCancelledError):
        items[0].result(0)
    with app.test_client().post("/good"):
        pass
    assert items[1].result(BOUND)[0][1] == "a.png"


def test_with_the_commit(make_app: MakeApp, store: Path, worker: Worker) -> None:
    """A file waits for the commit with its item, and goes when the commit does not come."""
    from flask_sqlalchemy import SQLAlchemy

    app = make_app(uploads=f"file://{store}")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    task = shop.describe.using(when="commit")
    with app.app_context():
        kept = task.enqueue([upload()])
        db.session.commit()
        assert kept.result(BOUND)[0][1] == "a.png"
        until(lambda: not list(store.iterdir()))
        task.enqueue([upload()])
        assert list(store.iterdir())
        db.session.rollback()
        assert not list(store.iterdir())
        db.session.remove()
        db.engine.dispose()


def test_refused(app: Flask, make_app: MakeApp, redis: Redis, store: Path, tmp_path: Path) -> None:
    """A refused item leaves no file, and the view can read the upload from its beginning."""
    given = upload()
    with pytest.raises(UnsupportedError, match="kept for 7 days"):
        shop.describe.using(delay=8 * 86_400).enqueue([given])
    with make_app(uploads=store, max_payload=10).app_context(), pytest.raises(PayloadTooLargeError):
        shop.describe.enqueue([given])
    redis.pause()
    try:
        with pytest.raises(BrokerError):
            shop.describe.enqueue([given])
    finally:
        redis.resume()
    assert not list(store.iterdir())
    missing = make_app(uploads=tmp_path / "missing")
    with (
        missing.app_context(),
        receiving(signals.item_refused, missing) as refused,
        pytest.raises(UploadError, match=f"could not be stored in {tmp_path}/missing") as raised,
    ):
        shop.describe.enqueue([given])
    assert refused == [{"task_name": "tests.celery.shop.describe", "error": raised.value}]
    assert raised.value.get_response().status_code == 503
    assert given.read() == b"picture"


def test_disk_is_full(app: Flask, store: Path, worker: Worker) -> None:
    """A store that takes no more refuses the item, and keeps no part of its upload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
        with pytest.raises(UploadError, match="File too large"):
            shop.describe.enqueue([upload(), upload(b"x" * 2_000_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(store.iterdir())


def test_file_is_missing(app: Flask, store: Path, worker: Worker, busy: Callable[[], None]) -> None:
    """An item whose upload is gone fails, and says in which store that was."""
    item = shop.describe.enqueue([upload()])
    for file in store.iterdir():
        file.unlink()
    busy()
    error = str(item.exception(BOUND))
    assert "was parked: its upload could not be read in" in error
    assert str(store) in error


def test_worker_without_a_store(make_app: MakeApp, broker: Broker, store: Path, tmp_path: Path) -> None:
    """A worker that does not know the store fails the item, and says what it lacks."""
    other = {"task_default_queue": "other"}
    worker = Worker(tmp_path, broker, "-Q", "other", celery=other)
    try:
        with make_app(uploads=store, celery=other, publish_timeout=BOUND).app_context():
            item = shop.describe.enqueue([upload()])
            assert "BACKGROUND_UPLOADS is not set in this worker" in str(item.exception(60))
    finally:
        worker.kill()
        for file in store.iterdir():
            file.unlink()


def test_sweep(app: Flask, store: Path, worker: Worker) -> None:
    """Once in a while old files are removed: of items that are over, or were left for long."""
    over = shop.echo.enqueue(1)
    assert over.wait(BOUND)
    waiting = shop.describe.using(delay=86_400).enqueue([upload()])
    now, hours, long = time.time(), 2 * 3_600.0, 86_400.0 + stored.KEPT + 60
    ages = {f"{over.id}-0": hours, f"{'0' * 24}-0": long, f"{'1' * 24}-0": hours, "other": long}
    ages |= {f"{over.id}-1": 0, f"{waiting.id}-0": hours}
    for name, age in ages.items():
        (store / name).touch()
        os.utime(store / name, (now - age, now - age))
    session: Any = state_of(app).celery.session
    session.uploads.sweep(session.is_over)
    left = {file.name for file in store.iterdir()}
    assert left == {f"{'1' * 24}-0", "other", f"{over.id}-1", f"{waiting.id}-0"}
    (store / f"{over.id}-1").unlink()
    (store / "again").touch()
    session.uploads.sweep(session.is_over)  # not so soon
    for name in ("other", "again", f"{'1' * 24}-0"):
        (store / name).unlink()
    assert waiting.cancel()


# URLs, which fsspec reaches.


@pytest.fixture
def remote() -> Iterator[Any]:
    """fsspec's files in memory; nothing is left there in the end."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield MemoryFileSystem
    left, MemoryFileSystem.store = dict(MemoryFileSystem.store), {}
    assert not left


def test_url(make_app: MakeApp, remote: Any) -> None:
    """Files are written there, read, and removed with the item; a password is not shown."""
    with make_app(uploads="memory://shop").app_context() as context:
        item = shop.describe.using(delay=60).enqueue([upload(b"x" * 12_000_000)])
        assert list(remote.store) == [f"/shop/{item.id}-0"]
        store = state_of(context.app).celery.session.uploads.store
        with store.read(f"{item.id}-0") as file:
            assert len(file.read()) == 12_000_000
        ((name, at),) = store.written()
        assert name == f"{item.id}-0"
        assert abs(at - time.time()) < BOUND
        assert item.cancel()
    assert Remote("memory://user:secret@host/path").shown == "memory://host/path"


@pytest.mark.parametrize("url", ["nonsense://bucket", "abfs://bucket/path"])
def test_urls_that_cannot_be(make_app: MakeApp, url: str) -> None:
    """A scheme that nobody knows, or whose package is missing, is refused by name."""
    with (
        make_app(uploads=url).app_context(),
        pytest.raises(ConfigurationError, match=re.escape(f"BACKGROUND_UPLOADS is {url}, which fails")),
    ):
        shop.describe.enqueue([upload()])


def test_store_hangs(make_app: MakeApp, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs is given up; a file that it writes later is removed, and the upload is kept."""
    monkeypatch.setattr(stored, "_STALLED", 0.2)
    gate = stored.native.Latch()
    original = remote._open

    def hang(self: Any, path: str, mode: str, **options: Any) -> Any:
        gate.wait(BOUND)
        return original(self, path, mode, **options)

    monkeypatch.setattr(remote, "_open", hang)
    given = upload()
    with make_app(uploads="memory://shop").app_context(), pytest.raises(UploadError, match="taken nothing"):
        shop.describe.enqueue([given])
    assert given.read() == b"picture"
    gate.open()
    until(lambda: not [thread for thread in our_threads() if thread.name == "background-upload"])
