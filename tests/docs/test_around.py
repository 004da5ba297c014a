"""``guides/around-recipes.md``: what Sentry gets of items, wherever they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ..helpers import ROOT
from .pages import DOCS, blocks, save

pytestmark = pytest.mark.process

SHOP = """
import asyncio
import json
import os

import sentry_sdk
from flask import Flask, request
from flask_background import Background, current_item
from sentry_sdk.transport import Transport
from shop_sentry import init_sentry, traced


class Keep(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event() or envelope.get_transaction_event()
        if event is not None:
            with open("events", "a") as file:
                file.write(json.dumps({**event, "pid": os.getpid()}, default=str) + "\\n")


init_sentry("http://key@127.0.0.1:9/1", transport=Keep, traces_sample_rate=1.0)
app = Flask("shop")
app.config["BACKGROUND_EXECUTORS"] = {"cpu": {"kind": "process", "workers": 1}}
app.config["BACKGROUND_APP"] = "shop:app"
background = Background(app)
background.around_item(traced)


@background.state_processor
def who():
    return {"user_id": request.args["user"]}


def fail(kind):
    sentry_sdk.add_breadcrumb(message="crumb of " + kind)
    sentry_sdk.set_tag("mark", kind)
    sentry_sdk.capture_message("in " + kind)
    raise ValueError(kind)


@background.task(name="thread")
def in_thread():
    fail("thread")


@background.task(name="coroutine")
async def in_coroutine():
    await asyncio.sleep(0)
    fail("coroutine")


@background.task(name="retried", max_attempts=2, backoff=0)
def retried():
    fail("retried")


@background.task(name="durable", durable=True)
def durable():
    fail("durable")


@background.task(name="child", executor="cpu")
def in_child():
    fail("child")


@background.task(name="durable child", executor="cpu", durable=True, max_attempts=2, backoff=0)
def durable_in_child():
    fail("durable child")
"""

RUN = """
import json
import os

import shop

items = {}
in_process = shop.in_thread, shop.in_coroutine, shop.retried, shop.durable
for task in (*in_process, shop.in_child, shop.durable_in_child):
    with shop.app.test_request_context("/?user=user of " + task.name):
        items[task.name] = task.enqueue()
for item in items.values():
    assert item.wait(60)
with shop.app.app_context():
    shop.background.stop(60)
print(json.dumps({"pid": os.getpid(), "items": {name: item.id for name, item in items.items()}}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the script says, and the events that Sentry has sent."""
    folder = tmp_path_factory.mktemp("sentry")
    (block,) = [
        one for one in blocks(DOCS / "guides" / "around-recipes.md") if one.file_name == "shop_sentry.py"
    ]
    save(folder, block)
    (folder / "shop.py").write_text(SHOP)
    (folder / "run.py").write_text(RUN)
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    run = subprocess.run(
        [sys.executable, "run.py"], cwd=folder, env=environ, capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stderr
    events = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    return json.loads(run.stdout), events


KINDS = ("thread", "coroutine", "retried", "durable", "child", "durable child")


def of_kind(events: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The events that come from items of one kind."""
    return [event for event in events if event["tags"]["task"] == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_failure(told: tuple[dict[str, Any], list[dict[str, Any]]], kind: str) -> None:
    """A failed item is one event with its last error, its own tags and user, and nobody else's crumbs."""
    said, events = told
    (event,) = [one for one in of_kind(events, kind) if one.get("level") == "error"]
    (error, *_) = event["exception"]["values"][::-1]
    assert (error["type"], error["value"].splitlines()[0]) == ("ValueError", kind)
    attempt = 2 if kind in ("retried", "durable child") else 1
    assert event["tags"]["item_id"] == said["items"][kind]
    assert event["tags"]["attempt"] == attempt
    assert event["user"] == {"id": f"user of {kind}"}
    assert event["pid"] == said["pid"]
    others = {f"crumb of {other}" for other in KINDS if other != kind}
    crumbs = {one.get("message") for one in event["breadcrumbs"]["values"]}
    assert not others & crumbs


@pytest.mark.parametrize("kind", KINDS)
def test_inside(told: tuple[dict[str, Any], list[dict[str, Any]]], kind: str) -> None:
    """What an item sends itself, and its transactions, have its tags and user, in a child process, too."""
    said, events = told
    attempts = 2 if kind in ("retried", "durable child") else 1
    messages = [one for one in of_kind(events, kind) if one.get("message") == f"in {kind}"]
    traces = [one for one in of_kind(events, kind) if one.get("type") == "transaction"]
    for found in (messages, traces):
        assert [one["tags"]["attempt"] for one in found] == list(range(1, attempts + 1))
        assert {one["tags"]["mark"] for one in found} == {kind}
        assert {one["user"]["id"] for one in found} == {f"user of {kind}"}
        assert all((one["pid"] == said["pid"]) is ("child" not in kind) for one in found)
    assert {one["transaction"] for one in traces} == {kind}
