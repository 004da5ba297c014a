"""The signals, as an app receives them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, has_app_context

from flask_background import Background, Status, WorkItem, signals
from flask_background.errors import QueueFull, Stopping

from .helpers import BOUND, Site, receiving, until


def test_order(app: Flask, background: Background) -> None:
    """An item is announced when it is accepted, when it starts, and when it has ended: in this order."""
    seen: list[tuple[str, str, Status, bool]] = []

    def note(name: str) -> Callable[..., None]:
        def receive(sender: Flask, item: WorkItem[Any]) -> None:
            seen.append((name, item.id, item.status, has_app_context()))

        return receive

    enqueued, started, finished = note("enqueued"), note("started"), note("finished")
    with (
        signals.item_enqueued.connected_to(enqueued, app),
        signals.item_started.connected_to(started, app),
        signals.item_finished.connected_to(finished, app),
    ):
        item = background.enqueue(lambda: None)
        assert item.wait(BOUND)
        assert seen == [
            ("enqueued", item.id, Status.QUEUED, False),
            ("started", item.id, Status.RUNNING, False),
            ("finished", item.id, Status.SUCCEEDED, False),
        ]
        failed = background.enqueue(lambda: 1 / 0)
        assert failed.wait(BOUND)
        assert seen[-1] == ("finished", failed.id, Status.FAILED, False)


def test_finished_can_read_the_outcome(app: Flask, background: Background) -> None:
    """In item_finished the item has ended: its result or error is there, without waiting."""
    seen: list[Any] = []

    def receive(sender: Flask, item: WorkItem[int]) -> None:
        seen.append((item.wait(1.0), item.finished_at is not None, item.exception(0) or item.result(0)))

    with signals.item_finished.connected_to(receive, app):
        good = background.enqueue(lambda: 42)
        assert good.wait(BOUND)
        bad = background.enqueue(lambda: 1 / 0)
        assert bad.wait(BOUND)
    assert seen == [(True, True, 42), (True, True, bad.exception(0))]


def test_receiver_may_enqueue(app: Flask, background: Background) -> None:
    """A receiver may enqueue another item, as a follow-up."""
    follow_ups: list[WorkItem[int]] = []

    def receive(sender: Flask, item: WorkItem[Any]) -> None:
        if not follow_ups:
            follow_ups.append(background.enqueue(lambda: 42))

    with signals.item_finished.connected_to(receive, app):
        assert background.enqueue(lambda: 1 / 0).wait(BOUND)
        assert follow_ups[0].result(BOUND) == 42


def test_cancelled_in_the_queue(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """An item that is cancelled in the queue is finished without having started."""
    site = make_site(BACKGROUND_WORKERS=1)
    site.background.enqueue(gate.wait, BOUND)
    with (
        receiving(signals.item_started, site.app) as started,
        receiving(signals.item_finished, site.app) as finished,
    ):
        item = site.background.enqueue(lambda: None)
        item.cancel()
        gate.set()
        assert site.background.wait_idle(BOUND)
    assert item not in [values["item"] for values in started]
    assert [values["item"] for values in finished].count(item) == 1


def test_refused(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """A refusal is announced with the task's name and the error that the view gets."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1)
    task = site.background.task(name="shop.wait")(gate.wait)
    task.enqueue(BOUND)
    task.enqueue(BOUND)
    with (
        receiving(signals.item_refused, site.app) as refused,
        receiving(signals.item_enqueued, site.app) as enqueued,
    ):
        with pytest.raises(QueueFull) as full:
            task.enqueue(BOUND)
        gate.set()
        site.background.stop(BOUND)
        with pytest.raises(Stopping) as stopping:
            task.enqueue(BOUND)
    assert refused == [
        {"task_name": "shop.wait", "error": full.value},
        {"task_name": "shop.wait", "error": stopping.value},
    ]
    assert enqueued == []


def test_stop(app: Flask, background: Background, gate: threading.Event) -> None:
    """A stop announces its beginning, with the seconds that there are, and its end, with what is left."""
    item = background.enqueue(gate.wait, BOUND)
    until(lambda: item.status is Status.RUNNING)
    with (
        receiving(signals.stopping, app) as stopping,
        receiving(signals.stopped, app) as stopped,
        receiving(signals.item_finished, app) as finished,
    ):
        background.stop(0.05)
        background.stop(0.05)
        assert stopped == [{"unfinished": [item]}]
        assert [values["item"] for values in finished] == [item]
        gate.set()
        assert background.wait_idle(BOUND)
    (values,) = stopping
    assert 0 <= values["grace"] <= 0.05
    # Once more, for the corrected record.
    assert [values["item"] for values in finished] == [item, item]


def test_stop_when_idle(app: Flask, background: Background) -> None:
    """A stop without items announces both as well."""
    with receiving(signals.stopping, app) as stopping, receiving(signals.stopped, app) as stopped:
        assert background.stop(5) == []
    assert len(stopping) == 1
    assert stopped == [{"unfinished": []}]
