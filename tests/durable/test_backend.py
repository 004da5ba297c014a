"""Durable items in one process, and in two that share a journal."""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request, url_for
from werkzeug.datastructures import FileStorage
from werkzeug.test import EnvironBuilder

from flask_background import Background, Status, current_item, signals
from flask_background.app_state import state_of
from flask_background.durable import maintenance as keeper
from flask_background.durable import runs as runs_of_items
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal import takeover as takeovers
from flask_background.durable.journal.row import timed_id
from flask_background.errors import (
    ConfigurationError,
    ItemCancelledError,
    ItemFailedError,
    JournalError,
    PayloadTooLargeError,
    ResultLostError,
    SerializationError,
)

from ..helpers import BOUND, Script, Site, lines, receiving, slack, until


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal")


def row(site: Site, item_id: str) -> dict[str, Any]:
    """The journal's row of an item, read as another program would."""
    journal = site.app.config["BACKGROUND_JOURNAL"] / "journal.sqlite3"
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("select * from item where id = ?", (item_id,)).fetchone()
    connection.close()
    return dict(found)


def change(site: Site, sql: str, *values: Any) -> None:
    """Change the journal behind the app's back."""
    state_of(site.app).durable.session.writer.write(lambda db: db.execute(sql, values))


def test_on_disk_when_enqueue_returns(site: Site, gate: threading.Event) -> None:
    """The row is there, with its arguments, before the item has run."""

    @site.background.task(durable=True, name="mail")
    def send(address: str, *, copies: int) -> tuple[str, int]:
        gate.wait(BOUND)
        return address, copies

    item = send.enqueue("a@example.com", copies=2)
    assert row(site, item.id)["payload"] == '[["a@example.com"],{"copies":2}]'
    assert row(site, item.id)["status"] in ("queued", "running")
    gate.set()
    assert item.result(BOUND) == ("a@example.com", 2)
    assert item.status is Status.SUCCEEDED
    assert row(site, item.id)["status"] == "succeeded"


def test_private_files(site: Site) -> None:
    """Nobody else may read the journal, whatever the umask."""
    before = os.umask(0)
    try:
        site.background.task(durable=True)(lambda: None).enqueue().result(BOUND)
    finally:
        os.umask(before)
    folder = site.app.config["BACKGROUND_JOURNAL"]
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_before_the_first(site: Site) -> None:
    """A durable task alone, and an app without requests, open no file."""
    site.background.task(durable=True)(lambda: None)
    assert not site.app.config["BACKGROUND_JOURNAL"].exists()


def test_state_and_links(site: Site) -> None:
    """An item sees the state of its request, and builds links with its root."""

    @site.background.task(durable=True)
    def work() -> tuple[Any, ...]:
        assert current_item.state
        return (
            current_item.state.method,
            current_item.state.path,
            url_for("static", filename="x", _external=True),
        )

    @site.app.post("/orders")
    def order() -> str:
        return work.enqueue().id

    item_id = site.client.post("/orders", base_url="https://shop.example/app").text
    assert find(site, item_id).result(BOUND) == ("POST", "/orders", "https://shop.example/app/static/x")


def find(site: Site, item_id: str) -> Any:
    """The item with this id."""
    with site.app.app_context():
        item = site.background.get(item_id)
    assert item is not None
    return item


@pytest.mark.parametrize("size", [10, 2_000_000])  # the form parser keeps the larger one in a file
def test_uploads(site: Site, size: int) -> None:
    """An upload lies beside the journal, can be read in every attempt, and is gone at the end."""
    seen: list[bytes] = []
    files: list[list[str]] = []
    uploads = site.app.config["BACKGROUND_JOURNAL"] / "uploads"

    @site.background.task(durable=True, max_attempts=2, backoff=0.01)
    def keep(photos: list[FileStorage]) -> None:
        files.append([str(path.relative_to(uploads)) for path in uploads.rglob("*") if path.is_file()])
        seen.append(photos[0].read())
        assert photos[0].filename == "../a.png"
        assert photos[0].mimetype == "image/png"
        if len(seen) == 1:
            raise OSError("again")

    @site.app.post("/")
    def upload() -> str:
        return keep.enqueue(request.files.getlist("photo")).id

    content = os.urandom(size)
    builder = EnvironBuilder(method="POST", data={"photo": (io.BytesIO(content), "../a.png", "image/png")})
    environ = builder.get_environ()
    with environ["wsgi.input"], site.client.open(environ) as response:
        item_id = response.text
    builder.close()
    assert find(site, item_id).wait(BOUND)
    assert seen == [content, content]
    assert files == [[f"{item_id}/0"]] * 2
    until(lambda: not [path for path in uploads.rglob("*") if path.is_file()])


@pytest.mark.parametrize("how", ["failed", "cancelled here", "cancelled in no process"])
def test_uploads_of_what_did_not_succeed(
    make_site: Callable[..., Site], tmp_path: Path, gate: threading.Event, how: str
) -> None:
    """They stay, so that the item can be retried, and are gone when that has succeeded."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)
    runs: list[int] = []

    @site.background.task(durable=True)
    def keep(photo: FileStorage) -> bytes:
        runs.append(1)
        if how == "failed" and len(runs) == 1:
            raise RuntimeError("first time")
        return photo.read()

    holds = site.background.enqueue(gate.wait, BOUND)
    until(lambda: holds.status is Status.RUNNING)
    task = keep.using(delay=60) if how == "cancelled in no process" else keep
    item = task.enqueue(FileStorage(io.BytesIO(b"picture"), "a.png"))
    if how != "failed":
        assert item.cancel()
    gate.set()
    assert item.wait(BOUND)
    durable = state_of(site.app).durable
    assert durable.session.writer.flush(BOUND)
    assert row(site, item.id)["status"] == how.split()[0]
    assert durable.session.writer.write(partial(statements.retry, item_id=item.id, now=time.time()))
    durable.session.wake_all()
    until(lambda: row(site, item.id)["status"] == "succeeded")
    assert find(site, item.id).result(BOUND) == b"picture"
    until(lambda: not [*(tmp_path / "journal" / "uploads").iterdir()])


def test_files_that_cannot_be_opened_just_now(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble that passes (too many open files, a disk that hangs) costs neither the item nor an attempt."""
    monkeypatch.setattr(runs_of_items, "_PUT_OFF", 0.05)
    task = site.background.task(durable=True)(lambda photo: photo.read())
    packing = state_of(site.app).durable.session.uploads
    unpack = packing.unpack
    errors = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "Input/output error")]

    def fail_at_first(entry: Any) -> Any:
        if errors:
            raise errors.pop()
        return unpack(entry)

    monkeypatch.setattr(packing, "unpack", fail_at_first)
    item = task.enqueue(FileStorage(io.BytesIO(b"picture"), "a.png"))
    until(lambda: row(site, item.id)["status"] == "succeeded")
    assert item.result(BOUND) == b"picture"
    assert not errors
    assert item.attempt == row(site, item.id)["attempt"] == 1


def test_arguments_are_data(site: Site) -> None:
    """An argument that would not come back as it was is refused by name, and nothing is left of the call."""
    task = site.background.task(durable=True)(lambda photo, tags=None: None)
    with pytest.raises(SerializationError, match=r"tags\['x'\]"):
        task.enqueue("a", tags={"x": {1}})
    with pytest.raises(PayloadTooLargeError, match="BACKGROUND_MAX_PAYLOAD"):
        task.enqueue("x" * 1_000_001)
    assert site.background.items() == []


def test_result_that_is_no_data(site: Site) -> None:
    """The item has succeeded; other processes learn that its result was not kept."""
    item = site.background.task(durable=True)(lambda: {1, 2}).enqueue()
    assert item.result(BOUND) == {1, 2}
    item_id = item.id
    del item
    with pytest.raises(ResultLostError, match="set"):
        elsewhere(site, item_id).result(0)


def elsewhere(site: Site, item_id: str) -> Any:
    """The item as a process sees it that did not run it."""
    durable = state_of(site.app).durable
    durable.handles._handles.pop(item_id, None)
    return durable.get(item_id)


def test_failure_is_known_elsewhere(site: Site) -> None:
    """With the type, the message and the traceback."""

    @site.background.task(durable=True)
    def fail() -> None:
        raise KeyError("nobody")

    item = fail.enqueue()
    assert isinstance(item.exception(BOUND), KeyError)
    error = elsewhere(site, item.id).exception(0)
    assert isinstance(error, ItemFailedError)
    assert "builtins.KeyError: 'nobody'" in str(error)
    assert 'raise KeyError("nobody")' in error.__notes__[0]


def test_attempts(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A failed run is followed by another one, with arguments as they were; signals and handle tell."""
    seen: list[tuple[int, list[int]]] = []

    @site.background.task(durable=True, max_attempts=3, backoff=lambda attempt, error: attempt / 100)
    def work(values: list[int]) -> str:
        seen.append((current_item.attempt, list(values)))
        values.append(2)
        if len(seen) < 3:
            raise OSError("no")
        return "done"

    with receiving(signals.item_retried, site.app) as retried:
        item = work.enqueue([1])
        assert item.result(BOUND) == "done"
    assert seen == [(1, [1]), (2, [1]), (3, [1])]
    assert item.attempt == 3
    assert [values["delay"] for values in retried] == [0.01, 0.02]
    assert [line for line in lines(caplog) if "failed in attempt 1 of 3" in line]
    assert row(site, item.id)["attempt"] == 3


def test_changed_options_travel(site: Site) -> None:
    """Options of using() hold for the next attempt too; functions and classes cannot travel."""
    runs: list[int] = []

    @site.background.task(durable=True)
    def work() -> None:
        runs.append(1)
        raise OSError("no")

    item = work.using(max_attempts=3, backoff=0.01).enqueue()
    assert isinstance(item.exception(BOUND), OSError)
    assert len(runs) == 3
    with pytest.raises(ConfigurationError, match="backoff"):
        work.using(backoff=lambda attempt, error: 1.0).enqueue()
    with pytest.raises(ConfigurationError, match="retry_on"):
        work.using(retry_on=(KeyError,)).enqueue()


def test_delay(site: Site) -> None:
    """An item waits for its time, in no process, and starts then."""
    task = site.background.task(durable=True)(time.time)
    began = time.time()
    item = task.using(delay=timedelta(seconds=0.3)).enqueue()
    assert item.status is Status.QUEUED
    assert row(site, item.id)["owner"] is None
    assert 0.3 <= item.result(BOUND) - began < 2
    assert task.using(run_at=datetime.now(UTC) + timedelta(seconds=0.1)).enqueue().wait(BOUND)


def test_key(site: Site, gate: threading.Event) -> None:
    """While an item with the key is queued or running, enqueue gives that one."""
    task = site.background.task(durable=True)(lambda number: gate.wait(BOUND) and number)
    first = task.using(key="receipt-42").enqueue(1)
    assert task.using(key="receipt-42").enqueue(2) is first
    assert task.using(key="receipt-43").enqueue(3) is not first
    gate.set()
    assert first.result(BOUND) == 1
    assert task.using(key="receipt-42").enqueue(2).result(BOUND) == 2


def test_cancel(site: Site, gate: threading.Event) -> None:
    """A waiting item is cancelled at once, a running one is asked to end, also from elsewhere."""

    @site.background.task(durable=True)
    def work() -> None:
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    waiting = work.using(delay=60).enqueue()
    assert waiting.cancel()
    assert waiting.status is Status.CANCELLED
    assert not waiting.cancel()
    running = work.enqueue()
    until(lambda: running.status is Status.RUNNING)
    assert running.cancel()
    assert isinstance(running.exception(BOUND), ItemCancelledError)
    assert row(site, running.id)["status"] == "cancelled"
    other = work.enqueue()
    until(lambda: row(site, other.id)["status"] == "running")
    change(site, "update item set cancel = 1 where id = ?", other.id)
    state_of(site.app).durable.session.wake_all()
    assert isinstance(other.exception(BOUND), ItemCancelledError)


def test_claimed_is_not_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the journal and the executor an item is something to do, all the time."""
    task = site.background.task(durable=True)(lambda: 42)
    assert task.enqueue().result(BOUND) == 42
    durable = state_of(site.app).durable
    take = durable.session.local.take
    seen: list[bool] = []

    def look_and_take(item: Any, held: bool = False) -> bool:
        seen.append(durable.claimer.has_nothing_to_do())
        return bool(take(item, held))

    monkeypatch.setattr(durable.session.local, "take", look_and_take)
    assert task.using(delay=0.01).enqueue().result(BOUND) == 42
    assert seen == [False]


def test_when_response(site: Site) -> None:
    """An item starts when the response has been sent, and is dropped with its view."""
    task = site.background.task(durable=True, when="response")(lambda: None)
    ids: list[str] = []

    @site.app.get("/<how>")
    def view(how: str) -> str:
        ids.append(task.enqueue().id)
        if how == "fail":
            raise RuntimeError("no")
        return row(site, ids[-1])["status"]

    site.app.config["PROPAGATE_EXCEPTIONS"] = False
    with site.client.get("/work") as response:
        assert response.text == "queued"
    assert find(site, ids[0]).wait(BOUND)
    assert site.client.get("/fail").status_code == 500
    assert find(site, ids[1]).status is Status.CANCELLED
    until(lambda: row(site, ids[1])["status"] == "cancelled")


def test_arguments_that_no_longer_fit(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The item is parked as failed with the reason, and the log says so."""
    item = site.background.task(durable=True, name="mail")(lambda a: a).using(delay=60).enqueue(1)
    change(site, "update item set payload = '[[1,2],{}]', due = 0 where id = ?", item.id)
    state_of(site.app).durable.session.wake_self()
    error = item.exception(BOUND)
    assert isinstance(error, ItemFailedError)
    assert "no longer fit" in str(error)
    until(lambda: "no longer fit" in (row(site, item.id)["reason"] or ""))
    assert [line for line in lines(caplog) if line.startswith(f"Item {item.id} (mail) failed")]


@pytest.mark.parametrize("column", ["payload", "options", "state"])
def test_row_that_does_not_parse(site: Site, column: str) -> None:
    """The item is parked, and others go on."""
    task = site.background.task(durable=True)(lambda: 42)
    item_id = task.using(delay=60).enqueue().id
    durable = state_of(site.app).durable
    durable.handles._handles.clear()  # with a handle here its row would not be read
    change(site, f"update item set {column} = '{{', due = 0 where id = ?", item_id)
    durable.session.wake_self()
    until(lambda: row(site, item_id)["status"] == "failed")
    assert row(site, item_id)["reason"]
    assert task.enqueue().result(BOUND) == 42


def look_over(site: Site) -> None:
    """Have the app do what it does once a minute."""
    durable = state_of(site.app).durable
    durable.maintenance._looked_over_at = 0.0
    durable.session.wake_self()


def forget_task(site: Site, name: str) -> Any:
    """A task that this app had, and has no more; enqueue an item of it before."""
    old = site.background.task(durable=True, name=name)(lambda: 42)
    site.background.task(durable=True, name="new")(lambda: 42)
    with site.app.app_context():
        item = old.using(delay=60).enqueue()
    del site.background._registry.tasks[name]
    change(site, "update item set due = 0 where id = ?", item.id)
    return item


def test_unknown_task_waits(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """An item of a task that no process has yet waits, with one warning, and runs when a process has it."""
    item = forget_task(site, "late")
    for _ in range(2):
        look_over(site)
        until(lambda: [line for line in lines(caplog) if "'late'" in line])
    assert row(site, item.id)["status"] == "queued"
    site.background.task(durable=True, name="late")(lambda: 42)
    state_of(site.app).durable.session.wake_self()
    assert item.result(BOUND) == 42
    assert len([line for line in lines(caplog) if "'late'" in line]) == 1


def test_unknown_task_for_long(site: Site) -> None:
    """An item that nobody could run for BACKGROUND_PARK_AFTER is parked."""
    item = forget_task(site, "old")
    change(site, "update item set enqueued = 1 where id = ?", item.id)
    look_over(site)
    until(lambda: row(site, item.id)["status"] == "failed")
    assert "'old'" in row(site, item.id)["reason"]


def test_process_that_only_looks_parks_nothing(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A process that runs no items may lack tasks that others have: it leaves their items alone."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)
    item = forget_task(site, "old")
    change(site, "update item set enqueued = 1 where id = ?", item.id)
    state_of(site.app).durable.maintenance._look_over(time.time())
    assert row(site, item.id)["status"] == "queued"


def test_unknown_executor(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """An item for an executor that no process has is parked; one whose executor rests waits."""
    site = make_site(
        BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_EXECUTORS={"mail": {"kind": "thread"}}
    )
    state_of(site.app).executors = frozenset({"asyncio"})
    task = site.background.task(durable=True, name="send")(lambda: 42)
    lost, waiting = task.enqueue(), task.using(executor="mail").enqueue()
    change(site, "update item set executor = 'gpu' where id = ?", lost.id)
    change(site, "update item set enqueued = 1, due = 1")
    look_over(site)
    until(lambda: row(site, lost.id)["status"] == "failed")
    assert "executor named 'gpu'" in row(site, lost.id)["reason"]
    assert "executor named 'gpu'" in str(lost.exception(BOUND))
    assert row(site, waiting.id)["status"] == "queued"


@pytest.mark.parametrize("how", ["folder", "files", "restored", "turn"])
def test_journal_that_is_removed(
    site: Site, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process notices before it accepts another item, and opens the journal anew: the item is on disk."""
    task = site.background.task(durable=True, name="work")(lambda number: number)
    assert task.enqueue(0).result(BOUND) == 0
    journal = site.app.config["BACKGROUND_JOURNAL"]
    with closing(sqlite3.connect(journal / "journal.sqlite3")) as connection:
        connection.execute("vacuum into ?", (str(tmp_path / "backup"),))
    if how == "folder":
        shutil.rmtree(journal)
    elif how == "turn":
        (journal / "turn").unlink()
    else:
        for path in journal.glob("journal.sqlite3*"):
            path.unlink()
    if how == "restored":
        shutil.copy(tmp_path / "backup", journal / "journal.sqlite3")
    later = task.using(delay=60).enqueue(5)
    assert row(site, later.id)["status"] == "queued"
    assert task.enqueue(6).result(BOUND) == 6
    assert site.background.get(later.id) is later
    state_of(site.app).durable.session.wake_self()
    until(lambda: [line for line in lines(caplog) if "removed or replaced" in line])
    process_lock = state_of(site.app).durable.session.process_lock
    until(lambda: (process_lock.folder / process_lock.id).exists() and process_lock.fifo_path.exists())


def test_clock_that_was_ahead(site: Site) -> None:
    """An item that was enqueued while the clock was ahead, without a delay, runs once the clock is right."""
    task = site.background.task(durable=True, name="work")(lambda: 42)
    now, later = task.using(delay=60).enqueue(), task.using(delay=60).enqueue()
    ahead = time.time() + 3600
    new_id = timed_id(now.id, ahead)
    change(site, "update item set enqueued = ?, due = ?, id = ? where id = ?", ahead, ahead, new_id, now.id)
    look_over(site)
    found = site.background.get(new_id)
    assert found is not None
    assert found.result(BOUND) == 42
    assert row(site, later.id)["status"] == "queued"


def test_killed_while_it_stops(site: Site, gate: threading.Event, tmp_path: Path) -> None:
    """From the beginning of a stop the death of the process is no crash of its items, and no attempt."""
    began = threading.Event()

    @site.background.task(durable=True, name="work")
    def work() -> None:
        began.set()
        gate.wait(BOUND)

    item = work.enqueue()
    assert began.wait(BOUND)
    durable = state_of(site.app).durable
    durable.stop_begins()
    name = durable.session.process_lock.id
    path = tmp_path / "journal" / "owners" / name
    (tmp_path / "dead").mkdir()
    shutil.copy(path, tmp_path / "dead" / "1-a")  # as it stands when the process is killed
    takeover = takeovers.take_over(tmp_path / "dead", "1-a")
    assert takeover is not None
    with takeover:
        assert (takeover.running, takeover.charged) == ({item.id}, False)
    gate.set()
    assert item.wait(BOUND)


def test_two_tasks_of_one_name(site: Site) -> None:
    """One of them cannot be durable."""
    site.background.task(name="mail", durable=True)(lambda: 1)
    with pytest.raises(ConfigurationError, match="two tasks are named 'mail'"):
        site.background.task(name="mail")(print)


def test_stop_releases_what_has_not_started(
    make_site: Callable[..., Site], tmp_path: Path, gate: threading.Event
) -> None:
    """Waiting items go back to the journal, uncharged; running ones have their time, and are told to end."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)

    @site.background.task(durable=True)
    def work() -> bool:
        gate.set()
        return current_item.token.wait(BOUND)

    items = [work.enqueue() for _ in range(3)]
    assert gate.wait(BOUND)
    assert site.background.stop(BOUND) == []
    assert [item.status for item in items] == [Status.SUCCEEDED, Status.QUEUED, Status.QUEUED]
    for item in items[1:]:
        found = row(site, item.id)
        assert (found["owner"], found["attempt"]) == (None, 0)


def test_stop_releases_what_is_held(site: Site) -> None:
    """An item whose response is still being sent when the time is up goes back as well, at once."""
    task = site.background.task(durable=True, when="response")(lambda: None)
    site.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
    with site.client.get("/") as response:
        item_id = response.text
        assert row(site, item_id)["owner"] is not None
        site.background.stop(0)
        found = row(site, item_id)
    assert (found["status"], found["owner"], found["attempt"], found["crashes"]) == ("queued", None, 0, 0)


def test_interrupted_run_is_not_charged(site: Site, gate: threading.Event) -> None:
    """An item that ended because the host stops is queued again, as if it had not run."""

    @site.background.task(durable=True)
    def work() -> None:
        gate.set()
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    item = work.enqueue()
    assert gate.wait(BOUND)
    site.background.stop(BOUND)
    found = row(site, item.id)
    assert (found["status"], found["owner"], found["attempt"]) == ("queued", None, 0)
    assert item.status is Status.QUEUED


def test_periodic(site: Site) -> None:
    """A periodic task runs again and again, and is durable."""
    times: list[float] = []

    @site.background.periodic(seconds=0.1)
    def tick() -> None:
        times.append(time.monotonic())

    assert tick.options.durable
    site.client.get("/")  # an app that nobody asks anything starts nothing
    until(lambda: len(times) >= 3)
    with pytest.raises(ConfigurationError, match="cron expression"):
        site.background.periodic()


@pytest.mark.parametrize("overlap", [False, True])
def test_periodic_that_takes_longer_than_its_period(site: Site, gate: threading.Event, overlap: bool) -> None:
    """By default times are left out while an item runs; with overlap=True items run beside one another."""
    begun: list[str] = []

    @site.background.periodic(seconds=0.1, overlap=overlap)
    def tick() -> None:
        begun.append(current_item.id)
        assert gate.wait(BOUND)

    site.client.get("/")
    if overlap:
        until(lambda: len({*begun}) >= 3)
    else:
        until(lambda: begun)
        planned = partial(queries.planned, now=math.inf)
        read = state_of(site.app).durable.session.writer.read
        first = read(planned)[tick.name]
        until(lambda: read(planned)[tick.name] > first + 0.3)  # three times have come and gone
        assert begun == [item.id for item in site.background.items()]
    gate.set()
    until(lambda: len(begun) >= 4)


def test_periodic_needs_durable(site: Site) -> None:
    """A task that is not durable is refused where it is declared, with the cure."""
    task = site.background.task(name="tick")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"tick is periodic.*durable=True"):
        site.background.periodic(seconds=1)(task)
    assert not site.background._registry.periodic


def test_periodic_without_executor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused where it is declared or where the app is prepared, or is named in the log."""

    def declare(background: Background) -> None:
        background.periodic(seconds=0.01)(background.task(durable=True, name="t", executor="mail")(print))

    app, other = Flask("shop"), Flask("other")
    app.config["BACKGROUND_JOURNAL"] = tmp_path / "journal"
    with pytest.raises(ConfigurationError, match="executor 'mail'"):
        declare(Background(other))
    early = Background()
    declare(early)
    with pytest.raises(ConfigurationError, match="executor 'mail'"):
        early.init_app(app)
    late = Background()
    late.init_app(app)
    declare(late)
    beats: list[int] = []
    late.periodic(seconds=0.01)(late.task(durable=True, name="beat")(lambda: beats.append(1)))
    app.test_client().get("/")
    until(lambda: len(beats) > 2)
    assert lines(caplog).count("The periodic task t cannot run") == 1
    with app.app_context():
        assert not late.items(task="t")


def test_journal_that_cannot_be_made(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A file in the folder's place: a typed error, a 503 in a view, and it works when that is gone."""
    (tmp_path / "journal").write_text("")
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    task = site.background.task(durable=True)(lambda: 42)
    began = time.monotonic()
    with pytest.raises(JournalError, match="journal"):
        task.enqueue()
    assert time.monotonic() - began < 5
    site.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
    response = site.client.get("/")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    (tmp_path / "journal").unlink()
    assert task.enqueue().result(BOUND) == 42


def test_journal_of_a_newer_version(site: Site) -> None:
    """A journal that a newer release has migrated: views answer 503, and the error names both versions."""
    task = site.background.task(durable=True)(lambda: 42)
    first = task.enqueue()
    assert first.result(BOUND) == 42
    journal = site.app.config["BACKGROUND_JOURNAL"] / "journal.sqlite3"
    with closing(sqlite3.connect(journal, isolation_level=None)) as newer:
        (known,) = newer.execute("pragma user_version").fetchone()
        newer.execute("update meta set value = 1000 where name = 'compatible_from'")
        newer.execute("pragma user_version = 1000")
        site.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
        assert site.client.get("/").status_code == 503
        with pytest.raises(JournalError, match=f"{journal} has version 1000.*versions up to {known}"):
            task.enqueue()
        newer.execute(f"pragma user_version = {known}")
    assert task.enqueue().result(BOUND) == 42
    assert row(site, first.id)["status"] == "succeeded"


def test_journal_that_is_locked(site: Site) -> None:
    """While another program holds the database, enqueue fails within seconds, and then works again."""
    task = site.background.task(durable=True)(lambda: 42)
    assert task.enqueue().result(BOUND) == 42
    holder = sqlite3.connect(site.app.config["BACKGROUND_JOURNAL"] / "journal.sqlite3", isolation_level=None)
    holder.execute("begin immediate")
    began = time.monotonic()
    with pytest.raises(JournalError, match="locked"):
        task.enqueue()
    assert time.monotonic() - began < 6
    holder.execute("rollback")
    holder.close()
    assert task.enqueue().result(BOUND) == 42


def test_maintenance_survives(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while the maintenance waits or looks is logged once, and the maintenance goes on."""
    monkeypatch.setattr(keeper, "_TROUBLE", 0.02)
    task = site.background.task(durable=True)(lambda: 42)
    assert task.enqueue().result(BOUND) == 42
    watch = state_of(site.app).durable.maintenance._watch
    failures: list[str] = []

    def fail(*_: Any) -> list[str]:
        failures.append("no descriptor")
        raise OSError("Too many open files")

    for name in ("wait", "dead"):
        monkeypatch.setattr(watch, name, fail)
    until(lambda: len(failures) >= 3)
    assert sum("cannot be maintained" in line for line in lines(caplog)) == 1
    monkeypatch.undo()
    assert task.using(delay=0.05).enqueue().result(BOUND) == 42


def test_retried_elsewhere(site: Site, program: Callable[[str], Script]) -> None:
    """An end that was seen here is not the last word when another process has run the item again."""

    @site.background.task(durable=True, name="work")
    def work(how: str) -> None:
        raise RuntimeError("not here")

    item = work.enqueue("there")
    assert isinstance(item.exception(BOUND), RuntimeError)
    assert find(site, item.id) is item
    assert isinstance(item.exception(0), RuntimeError)
    durable = state_of(site.app).durable
    durable.session.executors = frozenset()
    other = program(
        f"""
        from flask_background.app_state import state_of
        from flask_background.durable.journal import statements
        durable = state_of(app).durable
        durable.session.writer.write(lambda db: statements.retry(db, {item.id!r}, time.time()))
        durable.session.wake_self()
        time.sleep(60)
        """
    )
    other.wait_for("run 1")
    until(lambda: row(site, item.id)["status"] == "succeeded")
    assert find(site, item.id).result(0) == "there"
    with site.app.app_context():
        assert [found.status for found in site.background.items()] == [Status.SUCCEEDED]


def test_prune(site: Site) -> None:
    """Items that ended longer ago than BACKGROUND_KEEP are let go of."""
    task = site.background.task(durable=True)(lambda: 42)
    item = task.enqueue()
    item.result(BOUND)
    change(site, "update item set finished = finished - 86401 where id = ?", item.id)
    durable = state_of(site.app).durable
    durable.maintenance._looked_over_at = 0.0
    durable.session.wake_self()
    until(lambda: durable.session.read_row(item.id) is None)
    assert item.result(0) == 42


SCRIPT = """
    import os, sys, time
    from flask import Flask
    from flask_background import Background, current_item

    app = Flask("shop")
    app.config["BACKGROUND_JOURNAL"] = {journal!r}
    background = Background(app)

    @background.task(durable=True, name="work")
    def work(how):
        os.write(1, f"run {{current_item.attempt}}\\n".encode())
        current_item.report_progress(1, 2, "half")
        if how == "die":
            os._exit(1)
        if how == "hang":
            time.sleep(60)
        return how

    app.app_context().push()
"""


@pytest.fixture
def program(script: Callable[..., Script], tmp_path: Path) -> Callable[[str], Script]:
    """Starts a process of the app that shares the journal with the site."""
    return lambda then: script(SCRIPT.format(journal=str(tmp_path / "journal")), then)


def id_in(program: Script) -> str:
    """The id of the item that it has enqueued, and that runs."""
    program.wait_for("run 1")
    program.wait_for("id ")
    words = program.said.split()
    return words[words.index("id") + 1]


ENQUEUE = """
    item = work.enqueue({how!r})
    os.write(1, f"id {{item.id}}\\n".encode())
    time.sleep(60)
"""


def test_killed_process(site: Site, program: Callable[[str], Script]) -> None:
    """After kill -9 another process runs the item within a second, and it counts as the second attempt."""
    runs: list[tuple[int, float]] = []

    @site.background.task(durable=True, name="work")
    def work(how: str) -> str:
        runs.append((current_item.attempt, time.monotonic()))
        return how

    work.enqueue("").result(BOUND)
    other = program(ENQUEUE.format(how="hang"))
    item = find(site, id_in(other))
    until(lambda: item.status is Status.RUNNING)
    until(lambda: item.progress is not None)
    assert item.attempt == 1
    killed_at = time.monotonic()
    other.kill()
    assert item.result(BOUND) == "hang"
    assert runs[-1][0] == 2
    assert runs[-1][1] - killed_at < 1 + slack()
    assert item.attempt == 2


def test_stopped_process_keeps_its_items(site: Site, program: Callable[[str], Script]) -> None:
    """SIGSTOP is no death: nobody else runs what a stopped process has."""
    runs: list[str] = []
    task = site.background.task(durable=True, name="work")(lambda how: runs.append(how))
    task.enqueue("mine").result(BOUND)
    other = program(ENQUEUE.format(how="hang"))
    item = find(site, id_in(other))
    other.send(signal.SIGSTOP)
    durable = state_of(site.app).durable
    for _ in range(20):
        durable.session.wake_self()
        assert not item.wait(0.05)
    assert runs == ["mine"]
    other.kill()
    assert item.wait(BOUND)
    assert runs == ["mine", "hang"]


def test_no_hoard(
    make_site: Callable[..., Site], tmp_path: Path, program: Callable[[str], Script], gate: threading.Event
) -> None:
    """A process leaves items that it has no thread for to a process that has one."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)
    task = site.background.task(durable=True, name="work")(lambda how: gate.wait(BOUND) and "here")
    items = [task.enqueue("there") for _ in range(3)]
    until(lambda: items[0].status is Status.RUNNING)
    program("with app.test_client() as client: client.get('/')\ntime.sleep(60)")
    assert [item.result(BOUND / 2) for item in items[1:]] == ["there", "there"]
    gate.set()
    assert items[0].result(BOUND) == "here"


def test_poison(program: Callable[[str], Script], site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """An item that takes its process down three times is parked, and the log says so."""
    first = program(ENQUEUE.format(how="die"))
    assert first.ends() == 1
    for attempt in (2, 3):
        other = program("with app.test_client() as client: client.get('/')\ntime.sleep(60)")
        assert other.ends() == 1
        assert f"run {attempt}" in other.said
    site.background.task(durable=True, name="work")(lambda how: how).enqueue("").result(BOUND)
    with site.app.app_context():
        parked = [item for item in site.background.items() if item.status is Status.FAILED]
    assert len(parked) == 1
    assert "died in 3 of its runs" in str(parked[0].exception(0))
    until(lambda: [line for line in lines(caplog) if parked[0].id in line and "failed" in line])


def test_fork(site: Site) -> None:
    """A child neither uses nor closes the parent's journal, and opens its own."""
    task = site.background.task(durable=True)(lambda: os.getpid())
    assert task.enqueue().result(BOUND) == os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if task.enqueue().result(BOUND) else 1
            site.background.stop(1)
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert task.enqueue().result(BOUND) == os.getpid()


def test_handle_in_a_fork(site: Site, gate: threading.Event) -> None:
    """A handle that a child has inherited goes to the journal by the child's own way."""
    task = site.background.task(durable=True)(lambda: gate.wait(BOUND) and 42)
    running, waiting = task.enqueue(), task.using(delay=60).enqueue()
    ended = site.background.task(durable=True, name="ended")(lambda: {1}).enqueue()
    assert ended.wait(BOUND)
    until(lambda: row(site, running.id)["status"] == "running")
    parents = state_of(site.app).durable.session.writer
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            parents._rounds = None  # of no use here
            assert ended.result(0) == {1}
            assert not ended.cancel()
            assert (running.status, waiting.status) == (Status.RUNNING, Status.QUEUED)
            assert waiting.cancel()
            os.write(writing, b"!")
            assert running.result(BOUND) == 42
            assert state_of(site.app).durable.session.writer is not parents
            site.background.stop(1)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    assert waiting.status is Status.CANCELLED
    gate.set()
    assert os.waitpid(pid, 0)[1] == 0


def test_items_filtered(site: Site) -> None:
    """``items`` gives those with a status, and those of a task, durable or not."""

    @site.background.task(durable=True, name="good")
    def good() -> None: ...

    @site.background.task(name="bad")
    def bad() -> None:
        raise KeyError

    items = [good.enqueue(), good.enqueue(), bad.enqueue(), bad.using(durable=True).enqueue()]
    for item in items:
        assert item.wait(BOUND)

    def ids(**filters: Any) -> set[str]:
        return {item.id for item in site.background.items(**filters)}

    every = [item.id for item in items]
    assert ids() == {*every}
    assert ids(status=Status.SUCCEEDED) == {*every[:2]}
    assert ids(status=Status.FAILED, task="bad") == {*every[2:]}
    assert ids(status=Status.FAILED, task="good") == set()
