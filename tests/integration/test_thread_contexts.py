"""Threads that are started in a visitor's request know nothing of the visitor, whatever they are for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from flask_background import current_item, hosts, signals
from flask_background.hosts import base

from ..helpers import BOUND, Script, Site, until

visitor = ContextVar[str | None]("visitor", default=None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """The context that a library which follows new threads, as Sentry does, sees in each, by thread name."""
    seen: dict[str, str | None] = {}
    start = threading.Thread.start

    def follow(thread: threading.Thread) -> None:
        if thread.name.startswith("background-"):
            seen[thread.name] = visitor.get()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", follow)
    token = visitor.set("alice")
    yield seen
    visitor.reset(token)


def test_no_thread_has_the_visitors_context(
    make_site: Callable[..., Site],
    tmp_path: Path,
    started: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads for items, timers, callbacks, receivers, the journal, the watch: none has what the view has."""
    monkeypatch.setattr(base, "_LINGER", 0.01)
    until(lambda: not hosts.current().awake)  # the watcher that other tests have left
    started.clear()
    site = make_site(
        BACKGROUND_JOURNAL=tmp_path / "journal",
        BACKGROUND_EXECUTORS={"mail": {"workers": 1, "kind": "thread"}},
    )
    background = site.background
    inside: dict[str, str | None] = {}

    def note(name: str) -> str:
        inside[name] = visitor.get()
        return threading.current_thread().name

    async def coroutine() -> None:
        note("coroutine")
        await asyncio.sleep(0)
        note("coroutine, later")

    def limited() -> None:
        current_item.token.on_cancel(lambda: note("callback"))
        current_item.token.wait(BOUND)

    def receive(sender: Any, **values: Any) -> None:
        note("receiver")

    with signals.item_finished.connected_to(receive, site.app):
        items = [
            background.enqueue(note, "item"),
            background.task(name="mail", executor="mail")(note).enqueue("item of another executor"),
            background.enqueue(coroutine),
            background.task(name="limited", timeout=0.05)(limited).enqueue(),
            background.task(name="late")(note).using(delay=0.05).enqueue("delayed item"),
            background.task(name="durable", durable=True)(note).enqueue("durable item"),
        ]
        for item in items:
            assert item.wait(BOUND)
        until(lambda: "callback" in inside)
    assert background.wait_idle(BOUND)
    kinds = {"-".join(name.split("-")[:2]) for name in started}
    assert kinds >= {
        "background-thread",
        "background-mail",
        "background-asyncio",
        "background-timers",
        "background-callbacks",
        "background-watcher",
        "background-journal",
        "background-keeper",
    }
    assert set(started.values()) == {None}, started
    assert len(inside) == 8
    assert set(inside.values()) == {None}, inside


def test_immediate_coroutine(make_site: Callable[..., Site], started: dict[str, str | None]) -> None:
    """The thread for what a coroutine runs here and now has nothing of the view, either."""
    site = make_site(BACKGROUND_BACKEND="immediate")

    async def work() -> str | None:
        return visitor.get()

    async def view() -> str | None:
        return site.background.task(name="work")(work).enqueue().result(BOUND)

    assert asyncio.run(view()) is None
    assert "background-immediate" in started
    assert set(started.values()) == {None}


SENTRY = """
    import os, threading, time
    import sentry_sdk
    from sentry_sdk.transport import Transport
    from flask import Flask
    from flask_background import Background, current_item, signals
    events = []
    class Keep(Transport):
        def capture_envelope(self, envelope):
            if (event := envelope.get_event()) is not None:
                events.append(event)
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Keep, send_default_pii=True)
    app = Flask("shop")
    app.config.update(BACKGROUND_WORKERS=1, BACKGROUND_JOURNAL=os.path.abspath("journal"))
    background = Background(app)

    def fails(who):
        sentry_sdk.set_tag("item_for", who)
        sentry_sdk.add_breadcrumb(message="working for " + who)
        raise ValueError("item of " + who)

    async def fails_later(who):
        fails(who)

    def fails_callback(who):
        def callback():
            raise ValueError("callback of " + who)
        current_item.token.on_cancel(callback)
        current_item.token.wait(10)

    tasks = {
        "function": background.task(name="function")(fails),
        "coroutine": background.task(name="coroutine")(fails_later),
        "durable": background.task(name="durable", durable=True)(fails),
        "retried": background.task(name="retried", max_attempts=2, backoff=0.01)(fails),
        "durable_retried": background.task(name="dr", durable=True, max_attempts=2, backoff=0.01)(fails),
        "delayed": background.task(name="delayed")(fails).using(delay=0.05),
        "callback": background.task(name="callback", timeout=0.05)(fails_callback),
    }

    @app.get("/<name>/<who>")
    def view(name, who):
        sentry_sdk.set_user({"id": who})
        sentry_sdk.add_breadcrumb(message="request of " + who)
        tasks[name].enqueue(who).wait(10)
        return "ok"

    if RECEIVER:
        @signals.item_finished.connect
        def receive(sender, item):
            pass

    client = app.test_client()
    names = ("alice", "bob", "carol")
    for name in tasks:
        for who in names:
            del events[:]
            client.get(f"/{name}/{who}")
            background.wait_idle(10)
            end = time.monotonic() + 10
            while not events and time.monotonic() < end:
                time.sleep(0.01)
            assert events, (name, who)
            for event in events:
                others = set(names) - {who}
                about = str(event.get("user")) + str(event.get("request")) + str(event.get("breadcrumbs"))
                assert not any(other in about for other in others), (name, who, about)
                if name != "callback":
                    assert event["tags"]["item_for"] == who, (name, who, event.get("tags"))
    print("right")
"""


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"])
@pytest.mark.parametrize("receiver", [False, True])
def test_sentry(script: Callable[..., Script], receiver: bool, patch: str) -> None:
    """No event that Sentry sends of an item has another visitor's user or request; its own tags are there."""
    program = script(patch, SENTRY.replace("RECEIVER", str(receiver)))
    assert program.ends() == 0, program.said
    assert "right" in program.said
