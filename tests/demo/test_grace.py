"""The long items: progress, token, cancelling, the grace period, and kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ..helpers import slack
from .conftest import Start
from .driver import Demo, is_there, item_ids, until

KINDS = pytest.mark.parametrize("kind", ["memory", "durable"])


def started(demo: Demo, seconds: int, kind: str) -> str:
    """Start a long item and return its id once it runs."""
    before = set(item_ids(demo.get("/grace")))
    answer = demo.post("/grace", seconds=str(seconds), kind=kind)
    assert answer.status == 200
    (item_id,) = set(item_ids(answer)) - before
    until(lambda: all(demo.items(item_id)[0][name] for name in ("progress", "pid")))
    return item_id


def on_record(demo: Demo, item_id: str) -> dict[str, Any]:
    """The item's last note about itself."""
    record: dict[str, Any] = json.loads((demo.instance / "records" / f"{item_id}.json").read_text())
    return record


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a worker, so that the other one answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def card(demo: Demo, item_id: str) -> str:
    """The page's text about an item."""
    (found,) = re.findall(f'<article [^>]*data-item="{item_id}".*?</article>', demo.get("/grace").page, re.S)
    return " ".join(re.sub("<[^>]+>", " ", found).split())


def run_in(demo: Demo, item_id: str, count: int) -> dict[str, Any]:
    """The item, once it runs in the last of so many workers."""
    return until(
        lambda: next(
            (item for item in demo.items(item_id) if len(item["pids"]) == count and item["pid"]), None
        )
    )


@KINDS
def test_progress_and_cancelling(demo: Demo, kind: str) -> None:
    """A long item reports its progress; cancelled on the page, it ends and its token says why."""
    item_id = started(demo, 120, kind)
    (item,) = demo.items(item_id)
    assert item["status"] == "running"
    assert item["progress"]["total"] == 120
    assert item["token"] == {"cancelled": False, "reason": None, "remaining": None}
    assert item["pid"] in demo.workers()
    page = demo.get("/grace").page
    assert f"kill -HUP {demo.process.pid}" in page
    assert (f"data-victim>kill -9 {item['pid']}" in page) is (kind == "durable")
    assert f"Worker {item['pid']} Attempt 1 Asked to end no Time left" in card(demo, item_id)

    answer = demo.post(f"/grace/{item_id}/cancel")
    assert answer.status == 200
    item = demo.ended(item_id)
    assert item["status"] == "cancelled"
    assert item["token"]["reason"] == "requested"
    assert "It was cancelled." in card(demo, item_id)


@KINDS
def test_other_worker_knows_it(demo: Demo, kind: str) -> None:
    """The worker that does not run an item shows how far it is, and can have it end."""
    item_id = started(demo, 120, kind)
    (item,) = demo.items(item_id)
    with frozen(item["pid"]):
        (seen,) = demo.items(item_id)
        assert seen["status"] == "running"
        assert (seen["pid"], seen["attempt"]) == (item["pid"], 1)
        assert seen["progress"]["total"] == 120
        assert demo.post(f"/grace/{item_id}/cancel").status == 200
    assert demo.ended(item_id)["status"] == "cancelled"


@pytest.mark.parametrize("seconds", ["4", "121", "-5", "1e9", "ten", "", "nan"])
def test_seconds_out_of_range(demo: Demo, seconds: str) -> None:
    """A time that is out of range gets a message."""
    answer = demo.post("/grace", seconds=seconds, kind="memory")
    assert answer.status == 400
    assert "Please choose from 5 to 120 seconds." in answer.text


def test_not_too_many_at_once(demo: Demo) -> None:
    """Long items are limited, and one that was ended makes room."""
    ids: list[str] = []
    while (answer := demo.post("/grace", seconds="60", kind="durable")).status == 200:
        ids = sorted(set(ids) | set(item_ids(answer)))
        assert len(ids) <= 40
    assert answer.status == 429
    assert "Enough of them are running" in answer.text
    for item in json.loads(demo.get("/items?" + "&".join(f"id={i}" for i in ids)).body)["items"]:
        if not item["final"]:
            assert demo.post(f"/grace/{item['id']}/cancel").status == 200
            demo.ended(item["id"])


def test_kind_that_is_none(demo: Demo) -> None:
    """A kind that is not offered gets a message."""
    answer = demo.post("/grace", seconds="5", kind="eternal")
    assert answer.status == 400
    assert "Please choose one of the kinds." in answer.text


def test_cancelling_what_is_not_there(demo: Demo) -> None:
    """Cancelling an unknown item gets a page that says so."""
    answer = demo.post(f"/grace/{'0' * 24}/cancel")
    assert answer.status == 404
    assert "There is no such item" in answer.text


def test_killed_worker(start_demo: Start) -> None:
    """The command on the page kills a worker: what is durable runs again, the rest is lost."""
    demo = start_demo()
    ids = item_ids(demo.post("/grace", seconds="6", kind="both"))
    durable, memory = until(lambda: all((items := demo.items(*ids))[n]["progress"] for n in (0, 1)) and items)
    if durable["task"].endswith("memory"):
        durable, memory = memory, durable
    (command,) = re.findall("kill -9 ([0-9]+)", demo.get("/grace").text)
    assert int(command) == durable["pid"] == memory["pid"], "both run where the form was answered"
    os.kill(int(command), signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: demo.answers() and demo.items(durable["id"])[0]["attempt"] == 2)
    assert time.monotonic() - killed_at < 3 + slack()
    again = until(lambda: next((item for item in demo.items(durable["id"]) if item["pid"]), None))
    assert again["pid"] != durable["pid"]
    assert again["pids"] == [durable["pid"], again["pid"]]
    assert f"Begun in {durable['pid']}, again in {again['pid']}." in card(demo, durable["id"])
    lost = demo.ended(memory["id"])
    assert lost["status"] == "lost"
    assert "it was in memory only" in card(demo, memory["id"])
    ended = demo.ended(durable["id"])
    assert (ended["status"], ended["attempt"], ended["pid"]) == ("succeeded", 2, again["pid"])
    assert "Traceback" not in demo.log()


def test_item_that_loses_three_workers(start_demo: Start) -> None:
    """A durable item whose worker is killed three times is given up, and the server goes on."""
    demo = start_demo()
    item_id = started(demo, 60, "durable")
    for attempt in (1, 2, 3):
        item = until(
            lambda number=attempt: next(
                (
                    item
                    for item in demo.items(item_id)
                    if item["attempt"] == number and item["pid"] and is_there(item["pid"])
                ),
                None,
            )
        )
        os.kill(item["pid"], signal.SIGKILL)
        until(lambda pid=item["pid"]: not is_there(pid))
        until(demo.answers)
    assert demo.ended(item_id)["status"] == "failed"
    assert "Something went wrong here" in card(demo, item_id)
    assert "3 of its runs" in demo.log()


@KINDS
def test_item_survives_a_reload(start_demo: Start, kind: str) -> None:
    """On HUP new workers answer, and show how the item goes on in the old one, to its end."""
    demo = start_demo()
    item_id = started(demo, 5, kind)
    (before,) = demo.items(item_id)
    demo.signal(signal.SIGHUP)
    item = until(lambda: next((item for item in demo.items(item_id) if item["token"]["cancelled"]), None))
    assert item["pid"] == before["pid"]
    assert item["token"]["reason"] == "shutdown"
    assert 60 < item["token"]["remaining"] <= 90
    if not item["final"]:
        assert "that is the grace period" in demo.get("/grace").text
    ended = demo.ended(item_id)
    assert (ended["status"], ended["attempt"], ended["pid"]) == ("succeeded", 1, before["pid"])


def test_durable_item_that_is_too_long_moves(start_demo: Start) -> None:
    """A durable item that the grace period is too short for runs again in a new worker, uncharged."""
    demo = start_demo()
    item_id = started(demo, 120, "durable")
    (before,) = demo.items(item_id)
    demo.signal(signal.SIGHUP)
    item = run_in(demo, item_id, 2)
    assert item["attempt"] == 1
    assert item["pid"] != before["pid"]
    assert "a stop does not count as an attempt" in card(demo, item_id)
    demo.post(f"/grace/{item_id}/cancel")
    assert demo.ended(item_id)["status"] == "cancelled"


@KINDS
def test_items_survive_a_stop(start_demo: Start, kind: str) -> None:
    """After Ctrl-C, or TERM, the server ends when the item has: not before, and not much later."""
    demos = [start_demo(), start_demo()]
    ids = {demo: started(demo, 5, kind) for demo in demos}
    began = time.monotonic()
    demos[0].press_ctrl_c()
    demos[1].signal(signal.SIGTERM)
    for demo in demos:
        assert demo.exit_code() == 0
        assert time.monotonic() - began < 15 + slack(), demo.log()
        record = on_record(demo, ids[demo])
        assert record["progress"]["done"] == 5
        assert record["token"]["reason"] == "shutdown"
        if kind == "memory":
            assert record["status"] == "succeeded"


def test_item_that_is_too_long_ends_early(start_demo: Start) -> None:
    """An item that the grace period is too short for ends at once, and the log names it."""
    demo = start_demo()
    item_id = started(demo, 120, "memory")
    demo.signal(signal.SIGTERM)
    assert demo.exit_code() == 0
    assert on_record(demo, item_id)["status"] == "interrupted"
    assert item_id in demo.log()


def test_durable_item_goes_on_after_a_restart(start_demo: Start) -> None:
    """An item that was stopped, or killed with the whole server, runs again when the demo starts again."""
    demo = start_demo()
    item_id = started(demo, 120, "durable")
    demo.signal(signal.SIGTERM)
    assert demo.exit_code() == 0
    demo = start_demo(after=demo)
    item = run_in(demo, item_id, 2)
    assert item["attempt"] == 1
    demo.kill()
    demo = start_demo(after=demo)
    item = run_in(demo, item_id, 3)
    assert item["attempt"] == 2
    demo.post(f"/grace/{item_id}/cancel")
    assert demo.ended(item_id)["status"] == "cancelled"


def test_starting_says_where_to_look(demo: Demo) -> None:
    """The first thing in the terminal is the address, and nothing there looks like trouble."""
    assert f"The demo of Flask-Background: {demo.url}/" in demo.log()


def test_kill_button(start_demo: Start) -> None:
    """The button kills the worker of a durable item, which goes on in another worker."""
    demo = start_demo()
    durable = started(demo, 8, "durable")
    (item,) = demo.items(durable)
    assert demo.post("/grace/kill").status == 200
    until(lambda: item["pid"] not in demo.workers())
    again = until(lambda: next((i for i in demo.items(durable) if i["pid"] not in (None, item["pid"])), None))
    assert again["attempt"] == 2
    assert demo.ended(durable)["status"] == "succeeded"


def test_kill_button_of_an_idle_demo(start_demo: Start) -> None:
    """Without an item, the worker that answers is killed, after its answer."""
    demo = start_demo()
    before = set(demo.workers())
    answer = demo.post("/grace/kill")
    assert answer.status == 200
    assert answer.headers["Refresh"] == "1; url=/grace"
    (killed,) = until(lambda: before - set(demo.workers()))
    assert f"Worker {killed} is being killed" in answer.text
    until(lambda: len(demo.workers()) == 2)
    assert demo.process.poll() is None


def test_reload_button(start_demo: Start) -> None:
    """The button replaces the workers, and an item in memory ends in the old one."""
    demo = start_demo()
    item_id = started(demo, 6, "memory")
    before = set(demo.workers())
    assert demo.post("/grace/reload").status == 200
    until(lambda: len(set(demo.workers()) - before) == 2)
    assert demo.ended(item_id)["status"] == "succeeded"
    until(lambda: not before & set(demo.workers()))


@pytest.mark.parametrize("path", ["/grace/kill", "/grace/reload"])
def test_strangers_stop_nothing(demo: Demo, path: str) -> None:
    """A visitor who comes through a proxy, or whose form is on another site, stops no worker."""
    before = set(demo.workers())
    assert demo.post(path, {"X-Forwarded-For": "203.0.113.9"}).status == 403
    assert demo.post(path, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert demo.get(path).status == 405
    assert set(demo.workers()) == before
