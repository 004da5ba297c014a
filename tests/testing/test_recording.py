"""The record of what is enqueued."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy

from flask_background import Background, Status
from flask_background.errors import ArgumentError, QueueFull
from flask_background.testing import (
    RecordedItems,
    assert_enqueued,
    record_items,
    refute_enqueued,
    run_items,
)

from ..helpers import BOUND, Site


def work(*values: Any, **more: Any) -> None:
    """Do nothing."""


@pytest.fixture(params=["local", pytest.param("durable", marks=pytest.mark.process), "immediate", "manual"])
def kind(request: pytest.FixtureRequest, make_site: Callable[..., Site], tmp_path: Path) -> Iterator[Any]:
    """An app for each backend, and a task of it."""
    durable = request.param == "durable"
    site = make_site(
        BACKGROUND_BACKEND="local" if durable else request.param, BACKGROUND_JOURNAL=tmp_path / "journal"
    )
    task = site.background.task(durable=durable)(work)
    with record_items(site.app) as items:
        yield site, task, items
    site.background.stop(BOUND)


def test_every_backend(kind: tuple[Site, Any, RecordedItems]) -> None:
    """What was enqueued is there, in order, with arguments and options, also when it has ended."""
    site, task, items = kind
    first = task.enqueue(1, to="bo")
    second = task.using(delay=3600, key="k").enqueue([2])
    assert task.using(key="k").enqueue([3]) is second or site.app.config["BACKGROUND_BACKEND"] == "immediate"
    assert items[0].item is first
    assert (items[0].task_name, items[0].args, items[0].kwargs) == (task.name, (1,), {"to": "bo"})
    assert (items[1].item, items[1].args, items[1].options.delay, items[1].options.key) == (
        second,
        ([2],),
        3600,
        "k",
    )
    assert_enqueued(task, args=(1,), kwargs={"to": "bo"}, count=1)
    assert str(items).startswith(f"  1. {task.name}(1, to='bo')\n  2. {task.name}([2]) delay=3600 key=k")
    second.cancel()


def test_refused_items_are_left_out(make_site: Callable[..., Site]) -> None:
    """An item that was not accepted was not enqueued."""
    site = make_site(BACKGROUND_BACKEND="manual", BACKGROUND_MAX_QUEUED=1, BACKGROUND_WORKERS=1)
    task = site.background.task(work)
    with record_items(site.app) as items:
        task.enqueue(1)
        task.enqueue(2)
        with pytest.raises(QueueFull, match="BACKGROUND_MAX_QUEUED"):
            task.enqueue(3)
        with site.app.test_request_context(), pytest.raises(ArgumentError):
            task.enqueue(request)
        assert [each.args for each in items] == [(1,), (2,)]


def test_items_of_items(app: Flask, background: Background) -> None:
    """An item that another one enqueues comes after it, also if both run at once."""
    app.config["X"] = 1
    child = background.task(name="child")(work)
    parent = background.task(name="parent")(lambda: child.enqueue() and None)
    with record_items(app) as items:
        parent.enqueue()
        assert [item.task_name for item in run_items()] == ["parent", "child"]
        assert [each.task_name for each in items] == ["parent", "child"]


def test_blocks_within_blocks(app: Flask, background: Background) -> None:
    """Each block has what was enqueued in it; assertions look at the innermost one."""
    task = background.task(work)
    with record_items(app) as outer:
        task.enqueue(1)
        with record_items(app) as inner:
            task.enqueue(2)
            refute_enqueued(task, args=(1,))
        assert_enqueued(task, args=(1,))
        task.enqueue(3)
    assert [each.args for each in outer] == [(1,), (2,), (3,)]
    assert [each.args for each in inner] == [(2,)]


def test_no_block(app: Flask, background: Background) -> None:
    """Where nothing is recorded, an assertion says how to record."""
    task = background.task(work)
    with pytest.raises(RuntimeError, match=r"nothing records.*record_items\(app\)"):
        refute_enqueued(task)


def test_other_threads(items: RecordedItems, background: Background) -> None:
    """Items of another thread are recorded, too."""
    task = background.task(work)
    thread = threading.Thread(target=task.enqueue)
    thread.start()
    thread.join()
    assert_enqueued(task, count=1)


def test_response(site: Site, items: RecordedItems) -> None:
    """An item for after the response is enqueued when its view has returned, and not if the view fails."""
    task = site.background.task(when="response")(work)

    @site.app.post("/<outcome>")
    def view(outcome: str) -> str:
        task.enqueue(outcome)
        if outcome == "fails":
            raise OSError("no")
        return "done"

    assert site.client.post("/works").status_code == 200
    assert site.client.post("/fails").status_code == 500
    assert_enqueued(task, args=("works",), count=1)
    with pytest.raises(AssertionError, match=r"work\('fails'\) \(dropped or cancelled\)"):
        assert_enqueued(task, args=("fails",))
    assert [item.id for item in run_items()] == [items[0].item.id]


@pytest.mark.parametrize("backend", ["manual", "local", "immediate"])
def test_commit(make_site: Callable[..., Site], backend: str) -> None:
    """An item for after the commit is enqueued by the commit, and not before."""
    site = make_site(BACKGROUND_BACKEND=backend, SQLALCHEMY_DATABASE_URI="sqlite://")
    db = SQLAlchemy(site.app)
    task = site.background.task(when="commit")(work)
    with record_items(site.app), site.app.app_context():
        task.enqueue(1)
        with pytest.raises(AssertionError, match=r"work\(1\) \(waits for a commit\)"):
            assert_enqueued(task)
        if backend == "manual":
            assert run_items() == []
        db.session.commit()
        item = assert_enqueued(task, args=(1,)).item
        if backend == "manual":
            assert run_items() == [item]
        assert item.wait(BOUND)
        task.enqueue(2)
        db.session.rollback()
        refute_enqueued(task, args=(2,))
        db.session.remove()
        db.engine.dispose()


def test_record_without_context(make_site: Callable[..., Site]) -> None:
    """In the block a Background without an app knows which app is meant, and afterwards does not."""
    app = Flask("factory")
    app.config["BACKGROUND_BACKEND"] = "manual"
    background = Background()
    background.init_app(app)
    task = background.task(work)
    with record_items(app):
        assert task.enqueue(1).status is Status.QUEUED
        assert_enqueued(task)
        assert len(run_items()) == 1
    with pytest.raises(RuntimeError, match="does not know which app"):
        task.enqueue(1)
    with pytest.raises(RuntimeError, match="does not know which app"):
        run_items()


def test_two_apps(make_site: Callable[..., Site]) -> None:
    """The current app goes before the block's."""
    one, two = (make_site(name, BACKGROUND_BACKEND="manual") for name in ("one", "two"))
    first, second = (site.background.task(name=site.app.name)(work) for site in (one, two))
    with record_items(one.app) as ones, record_items(two.app) as twos:
        first.enqueue()
        second.enqueue()
        assert [item.task_name for item in run_items()] == ["two"]
        with one.app.app_context():
            assert_enqueued(first)
            refute_enqueued(second)
            assert [item.task_name for item in run_items()] == ["one"]
    assert (len(ones), len(twos)) == (1, 1)
