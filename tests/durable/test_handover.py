"""The hand-over: what has not started when its process must end runs in the next one, once."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import request
from werkzeug.datastructures import FileStorage

from flask_background import Status, WorkItem, current_item, signals
from flask_background.durable.journal import statements
from flask_background.errors import ItemCancelledError, ItemInterruptedError
from flask_background.local import handover
from flask_background.payload.data import load_call

from ..children import hog
from ..helpers import BOUND, ROOT, Script, Site, lines, receiving, until

Make = Callable[..., Site]


class Shop:
    """An app with one thread and no durable task, and what its tasks did, in whichever process."""

    def __init__(self, make_site: Make, folder: Path, gate: threading.Event) -> None:
        self._make_site = make_site
        self.folder = folder
        self._gate = gate
        self.seen: list[Any] = []
        self.errors = 0

    def make(self, **settings: Any) -> Site:
        """The app as a new process has it."""
        settings = {"BACKGROUND_HAND_OVER": True, "BACKGROUND_WORKERS": 1} | settings
        site = self._make_site(BACKGROUND_JOURNAL=self.folder, **settings)

        def save(value: Any, *more: Any) -> Any:
            if isinstance(value, FileStorage):
                value = (value.filename, value.read())
            item = current_item
            self.seen.append((value, item.id, item.attempt, item.state.path))
            return value

        def fail(value: Any) -> Any:
            if self.errors:
                self.errors -= 1
                raise ValueError(value)
            return save(value)

        self.save = site.background.task(name="shop.save")(save)
        self.fail = site.background.task(name="shop.fail", max_attempts=3, backoff=60)(fail)
        self.durable = site.background.task(name="shop.durable")(save)  # durable by ``using`` only
        return site

    def hold(self, site: Site) -> WorkItem[Any]:
        """An item on the only thread that no other process could find."""
        item = site.background.enqueue(self._gate.wait, BOUND)
        until(lambda: item.status is Status.RUNNING)
        return item

    def values(self) -> list[Any]:
        """The arguments of the items that have run."""
        return [value for value, *_ in self.seen]


@pytest.fixture
def shop(make_site: Make, tmp_path: Path, gate: threading.Event) -> Shop:
    """No process yet."""
    return Shop(make_site, tmp_path / "journal", gate)


def test_next_process(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Queued items run once in the next process, with their ids and states; the old handle says so."""
    site = shop.make()
    held = shop.hold(site)
    with site.app.test_request_context("/buy"):
        items = [shop.save.enqueue(number) for number in range(3)]
    assert not shop.folder.exists()
    with receiving(signals.item_finished, site.app) as ended, receiving(signals.stopped, site.app) as stopped:
        assert site.background.stop(0) == [held]
    assert [event["item"] for event in ended] == [held]
    assert [event["unfinished"] for event in stopped] == [[held]]
    for item in items:
        assert item.wait(0)
        assert item.status is Status.INTERRUPTED
        with pytest.raises(ItemInterruptedError, match=r"handed over .* another process runs it"):
            item.result(0)
    assert shop.values() == []
    handed, stop = (line for line in lines(caplog) if "handed over" in line)
    assert handed == (
        f"Stopping: 3 items that had not started handed over to the journal in {shop.folder}; a process of"
        " the app that uses this folder runs them"
    )
    assert re.fullmatch(r"Stopped after \d\.\d s: 3 items handed over, 0 run again, 1 lost", stop)
    elsewhere = site.background.get(items[0].id)
    assert elsewhere is not None
    assert elsewhere.status is Status.QUEUED

    after = shop.make()
    with receiving(signals.item_finished, after.app) as ended:
        after.background.start()
        found = [after.background.get(item.id) for item in items]
        assert [item and item.result(BOUND) for item in found] == [0, 1, 2]
        assert after.background.wait_idle(BOUND)
        until(lambda: len(ended) == 3)
    assert shop.seen == [(number, item.id, 1, "/buy") for number, item in enumerate(items)]
    assert elsewhere.result(BOUND) == 0


def test_retry_as_the_stop_begins(shop: Shop) -> None:
    """An item that is queued again in the moment in which the stop begins is handed over like the others."""
    site = shop.make()
    shop.errors = 1

    def begin(app: Any, **values: Any) -> None:
        site.backend.shutdown.begin(time.monotonic(), grace=60)

    with signals.item_retried.connected_to(begin, site.app):
        again = shop.fail.enqueue("again")
        assert again.wait(BOUND)
    assert again.status is Status.INTERRUPTED
    assert "was handed over" in str(again.exception(0))
    site.background.stop(0)
    after = shop.make()
    retried = after.background.get(again.id)
    assert retried is not None
    assert retried.status is Status.QUEUED
    assert retried.attempt == 1


def test_waiting_for_its_time(shop: Shop) -> None:
    """A delayed item keeps its time, and one that waits for another attempt the number of its attempts."""
    site = shop.make()
    soon = shop.save.using(delay=1).enqueue("soon")
    later = shop.save.using(delay=3600).enqueue("later")
    shop.errors = 1
    again = shop.fail.enqueue("again")
    until(lambda: again.attempt == 1 and again.status is Status.QUEUED and site.backend.later.has(again))
    site.backend.shutdown.begin(time.monotonic(), grace=60)
    assert {item.status for item in (soon, later, again)} == {Status.INTERRUPTED}
    assert site.background.wait_idle(0)
    site.background.stop(0)

    after = shop.make()
    after.background.start()
    found = after.background.get(soon.id)
    assert found is not None
    assert found.result(BOUND) == "soon"
    assert shop.values() == ["soon"]
    assert time.time() >= soon.enqueued_at.timestamp() + 1
    retried = after.background.get(again.id)
    assert retried is not None
    assert retried.attempt == 1
    assert retried.status is Status.QUEUED
    assert retried.cancel()
    late = after.background.get(later.id)
    assert late is not None
    assert late.cancel()


def test_upload(shop: Shop) -> None:
    """An upload goes with its item, and is read by the next process."""
    site = shop.make()
    shop.hold(site)
    upload = FileStorage(io.BytesIO(b"picture"), "a.jpg")
    item = shop.save.enqueue(upload)
    site.background.stop(0)
    after = shop.make()
    after.background.start()
    found = after.background.get(item.id)
    assert found is not None
    found.result(BOUND)
    assert shop.values() == [("a.jpg", b"picture")]
    until(lambda: not list((shop.folder / "uploads").iterdir()))


@pytest.mark.parametrize("kind", ["asyncio", "process"])
def test_other_executors(shop: Shop, kind: str) -> None:
    """Items that wait for a place on an event loop or in a child process are handed over as well."""
    places = {"asyncio": {"limit": 1}, "process": {"workers": 1}}[kind]
    site = shop.make(
        BACKGROUND_EXECUTORS={"narrow": {"kind": kind, **places}}, BACKGROUND_APP="tests.children:create_app"
    )
    func: Any = asyncio.sleep if kind == "asyncio" else hog
    args: tuple[Any, ...] = (30, ("done", 1)) if kind == "asyncio" else (str(shop.folder / "pid"),)
    task = site.background.task(name=f"shop.{func.__name__}", executor="narrow")(func)
    items = [task.enqueue(*args) for _ in range(3)]
    until(lambda: items[0].status is not Status.QUEUED)
    site.background.stop(0)
    with closing(sqlite3.connect(shop.folder / "journal.sqlite3")) as db:
        rows = dict(db.execute("select id, payload from item").fetchall())
    assert rows.keys() == {item.id for item in items[1:]}
    calls = [load_call(payload) for payload in rows.values()]
    assert calls == [(args, {})] * 2


def test_what_stays(shop: Shop, caplog: pytest.LogCaptureFixture, gate: threading.Event) -> None:
    """What the journal cannot take is named as before, with the reason, and runs if the process lives on."""
    site = shop.make(BACKGROUND_MAX_PAYLOAD=100)
    shop.hold(site)
    secret = type("Secret", (), {"__repr__": lambda self: "s3cret"})()
    stays = {
        "no task": site.background.enqueue(shop.seen.append, "function"),
        "not data": shop.save.enqueue("kept", secret),
        "MAX_PAYLOAD": shop.save.enqueue("x" * 200),
        "backoff": shop.fail.using(backoff=lambda attempt, error: 1.0).enqueue("variant"),
    }
    goes = shop.save.enqueue("goes")
    clock = site.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    clock.tick()
    assert {item.status for item in (goes, *stays.values())} == {Status.INTERRUPTED}
    errors = lines(caplog, logging.ERROR)
    for why, item in stays.items():
        assert why in str(item.exception(0))
        assert "not started when the grace period was over, and was not handed over" in str(item.exception(0))
        assert [why in line for line in errors if item.id in line] == [True]
    assert not any("s3cret" in line or goes.id in line for line in errors)
    clock.tick()
    assert len(lines(caplog, logging.ERROR)) == len(errors)
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert {item.status for item in stays.values()} == {Status.SUCCEEDED}
    assert "goes" not in shop.values()


def test_waiting_for_a_response(shop: Shop) -> None:
    """An item whose response has not been sent is not handed over: the view may still fail."""
    site = shop.make()
    shop.hold(site)
    held: list[WorkItem[Any]] = []

    @site.app.get("/")
    def view() -> str:
        held.append(shop.save.using(when="response").enqueue(request.path))
        held.append(shop.save.enqueue("sent"))
        site.background.stop(0)
        return ""

    site.client.get("/", buffered=True)
    assert [item.status for item in held] == [Status.INTERRUPTED] * 2
    assert "handed over" not in str(held[0].exception(0))
    assert site.background.get(held[0].id) is held[0]
    assert "was handed over" in str(held[1].exception(0))


@pytest.mark.parametrize("settings", [{"BACKGROUND_HAND_OVER": False}, {"TESTING": True}])
def test_off(shop: Shop, settings: dict[str, Any]) -> None:
    """Nothing is handed over if the setting says so, nor by an app that is being tested."""
    site = shop.make(**settings)
    shop.hold(site)
    item = shop.save.enqueue(1)
    site.background.stop(0)
    assert item.status is Status.INTERRUPTED
    assert "handed over" not in str(item.exception(0))
    assert not shop.folder.exists()


def test_no_folder(shop: Shop, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """Where no journal can be made, items are named as before, with the reason, and go on."""
    shop.folder.parent.joinpath("file").touch()
    shop.folder = shop.folder.parent / "file" / "journal"
    site = shop.make()
    shop.hold(site)
    item = shop.save.enqueue(1)
    clock = site.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    clock.tick()
    assert item.status is Status.INTERRUPTED
    assert "was not handed over: the journal in" in str(item.exception(0))
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert item.result(0) == 1


def test_write_fails(shop: Shop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that could not be written does not run here: the journal may have it all the same."""
    site = shop.make()
    shop.hold(site)
    item = shop.save.enqueue(1)

    def insert_each(*args: Any, **rows: Any) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(statements, "insert_each", insert_each)
    clock = site.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    clock.tick()
    assert "could not be handed over" in str(item.exception(0))
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert item.status is Status.INTERRUPTED
    assert shop.seen == []


def test_no_time(shop: Shop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items for which the time does not suffice are named as before, and go on."""
    monkeypatch.setattr(handover, "_AT_LEAST", 0.0)
    site = shop.make()
    shop.hold(site)
    items = [shop.save.enqueue(number) for number in range(3)]
    clock = site.backend.shutdown
    clock.begin(time.monotonic() - 60, grace=60, allowance=50)
    monkeypatch.setattr(type(clock), "must_be_done_by", lambda self: time.monotonic() - 1)
    clock.tick()
    assert {"the time was up" in str(item.exception(0)) for item in items} == {True}
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert shop.values() == [0, 1, 2]


def test_keys(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A key becomes one in the journal; where an item has it there, the other one is dropped."""
    site = shop.make()
    shop.hold(site)
    equal = shop.save.using(key="a", durable=True, delay=3600).enqueue("there")
    here, other = shop.save.using(key="a").enqueue("here"), shop.save.using(key="b").enqueue("other")
    assert here is not equal
    with receiving(signals.item_finished, site.app) as ended:
        site.background.stop(0)
    assert here in [event["item"] for event in ended]
    with pytest.raises(ItemCancelledError, match=f"item {equal.id}, which has the same key, is queued"):
        here.result(0)
    assert (
        f"Item {here.id} (shop.save) dropped: item {equal.id}, which has the same key, is queued or running"
        in (lines(caplog, logging.WARNING))
    )
    assert other.status is Status.INTERRUPTED
    after = shop.make()
    assert shop.save.using(key="b", durable=True).enqueue("again").id == other.id
    after.background.start()
    found = after.background.get(other.id)
    assert found is not None
    assert found.result(BOUND) == "other"


def test_many(shop: Shop, gate: threading.Event) -> None:
    """Thousands of items are handed over while the thread goes on: each runs once, here or there."""
    site = shop.make()
    shop.hold(site)
    items = [shop.save.enqueue(number) for number in range(3_000)]
    clock = site.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    threading.Timer(0.02, gate.set).start()
    began = time.monotonic()
    clock.tick()
    assert time.monotonic() - began < BOUND / 4
    assert site.background.wait_idle(BOUND)
    site.background.stop(0)
    after = shop.make()
    after.background.start()
    until(lambda: len(shop.seen) >= len(items))
    assert after.background.wait_idle(BOUND)
    assert sorted(shop.values()) == list(range(3_000))


def test_a_living_process_finds_them(shop: Shop) -> None:
    """A process without a journal that is in use finds one that another process has made."""
    living = shop.make(BACKGROUND_WORKERS=2)
    blocker = shop.hold(living)
    site = shop.make()
    shop.hold(site)
    item = shop.save.enqueue(1)
    site.background.stop(0)
    until(lambda: shop.values() == [1])
    found = living.background.get(item.id)
    assert found is not None
    assert found.result(BOUND) == 1
    assert blocker.status is Status.RUNNING


CUT = """
import os, signal, sys, threading, time
from flask import Flask
from flask_background import Background

app = Flask("shop", instance_path=sys.path[0] + "/instance")
app.config.update(BACKGROUND_WORKERS=1, BACKGROUND_GRACE_PERIOD=60)
background = Background(app)

@background.task(name="shop.save")
def save(number):
    with open("runs", "a") as runs:
        runs.write(f"{number}\\n")

with app.app_context():
    if os.path.exists("instance"):
        background.start()
        time.sleep(0.1)
        background.wait_idle(30)
        print("idle", flush=True)
    else:
        background.enqueue(time.sleep, 60)
        for number in range(500):
            save.enqueue(number)
        print("ready", flush=True)
        time.sleep(60)
"""


def test_cut(script: Callable[..., Script], tmp_path: Path) -> None:
    """A second signal ends the wait, and what has not started is handed over before the process ends."""
    program = script(CUT)
    program.wait_for("ready")
    program.send(signal.SIGINT)
    program.wait_for("Stopping: waiting")
    began = time.monotonic()
    program.send(signal.SIGINT)
    program.ends()
    assert time.monotonic() - began < BOUND / 2
    assert "500 items that had not started handed over" in program.said
    runs = tmp_path / "0" / "runs"
    assert not runs.exists()
    after = [sys.executable, "script.py"]
    subprocess.run(after, cwd=runs.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert sorted(map(int, runs.read_text().split())) == list(range(500))
