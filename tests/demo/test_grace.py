"""The long item: progress, token, cancelling, and the grace period under real signals."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from .conftest import Start
from .driver import Demo, item_ids, until


def started(demo: Demo, seconds: int) -> str:
    """Start a long item and return its id once it runs."""
    before = set(item_ids(demo.get("/grace")))
    answer = demo.post("/grace", seconds=str(seconds))
    assert answer.status == 200
    (item_id,) = set(item_ids(answer)) - before
    until(lambda: demo.items(item_id)[0]["progress"])
    return item_id


def on_record(demo: Demo, item_id: str) -> dict[str, Any]:
    """What the item last wrote down of itself."""
    record: dict[str, Any] = json.loads((demo.instance / "records" / f"{item_id}.json").read_text())
    return record


def test_progress_and_cancelling(demo: Demo) -> None:
    """A long item reports its progress; cancelled on the page, it ends and its token says why."""
    item_id = started(demo, 120)
    (item,) = demo.items(item_id)
    assert item["status"] == "running"
    assert item["progress"]["total"] == 120
    assert item["token"] == {"cancelled": False, "reason": None, "remaining": None}
    page = demo.get("/grace").text
    assert f"kill -HUP {demo.process.pid}" in page
    assert str(demo.worker) in page

    answer = demo.post(f"/grace/{item_id}/cancel")
    assert answer.status == 200
    item = demo.ended(item_id)
    assert item["status"] == "cancelled"
    assert item["token"]["reason"] == "requested"
    assert "It was cancelled." in demo.get("/grace").text


@pytest.mark.parametrize("seconds", ["4", "121", "-5", "1e9", "ten", "", "nan"])
def test_seconds_out_of_range(demo: Demo, seconds: str) -> None:
    """A time that is out of range gets a message."""
    answer = demo.post("/grace", seconds=seconds)
    assert answer.status == 400
    assert "Please choose from 5 to 120 seconds." in answer.text


def test_not_too_many_at_once(demo: Demo) -> None:
    """Long items are limited, and one that was ended makes room."""
    ids: list[str] = []
    while (answer := demo.post("/grace", seconds="60")).status == 200:
        ids = sorted(set(ids) | set(item_ids(answer)))
        assert len(ids) <= 40
    assert answer.status == 429
    assert "Enough of them are running" in answer.text
    for item in json.loads(demo.get("/items?" + "&".join(f"id={i}" for i in ids)).body)["items"]:
        if not item["final"]:
            assert demo.post(f"/grace/{item['id']}/cancel").status == 200
            demo.ended(item["id"])


def test_cancelling_what_is_not_there(demo: Demo) -> None:
    """Cancelling an item that this process does not know is told on a page."""
    answer = demo.post(f"/grace/{'0' * 24}/cancel")
    assert answer.status == 404
    assert "does not know that item" in answer.text


def test_item_survives_a_reload(start_demo: Start) -> None:
    """On HUP a new worker answers, and shows how the item goes on in the old one, to its end."""
    demo = start_demo()
    item_id = started(demo, 5)
    demo.signal(signal.SIGHUP)
    until(lambda: demo.worker_pid() not in (None, demo.worker))
    item = until(lambda: next((item for item in demo.items(item_id) if item["token"]["cancelled"]), None))
    assert item["pid"] == demo.worker
    assert item["token"]["reason"] == "shutdown"
    assert 60 < item["token"]["remaining"] <= 90
    if not item["final"]:
        assert "that is the grace period" in demo.get("/grace").text
    assert demo.ended(item_id)["status"] == "succeeded"


def test_items_survive_a_stop(start_demo: Start) -> None:
    """After Ctrl-C, or TERM, the server ends when the item has: not before, and not much later."""
    demos = [start_demo(), start_demo()]
    ids = {demo: started(demo, 5) for demo in demos}
    began = time.monotonic()
    demos[0].press_ctrl_c()
    demos[1].signal(signal.SIGTERM)
    for demo in demos:
        assert demo.process.wait(30) == 0
        assert time.monotonic() - began < 15
        record = on_record(demo, ids[demo])
        assert record["status"] == "succeeded"
        assert record["token"]["reason"] == "shutdown"


def test_item_that_is_too_long_ends_early(start_demo: Start) -> None:
    """An item that the grace period is too short for ends at once, and the log names it."""
    demo = start_demo()
    item_id = started(demo, 120)
    demo.signal(signal.SIGTERM)
    assert demo.process.wait(30) == 0
    assert on_record(demo, item_id)["status"] == "interrupted"
    assert item_id in demo.log()


def test_starting_says_where_to_look(demo: Demo) -> None:
    """The first thing in the terminal is the address, and nothing there looks like trouble."""
    assert f"The demo of Flask-Background: {demo.url}/" in demo.log()
