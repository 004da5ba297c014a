"""The immediate backend: items run where they are enqueued."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g

from flask_background import Background, Status, current_item, signals
from flask_background.errors import ConfigurationError, ResultLostError, SerializationError

from ..helpers import Site, lines, receiving


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """An app whose items are all immediate."""
    return make_site(BACKGROUND_BACKEND="immediate")


def test_here_and_now(app: Flask, background: Background) -> None:
    """An item has ended when enqueue returns, and has run on the caller's thread, in a context of its own."""
    seen: list[Any] = []

    @background.task
    def work(value: int) -> int:
        seen.extend([threading.current_thread(), current_item.attempt, g.get("user"), current_app.name])
        return value * 2

    with app.app_context():
        g.user = "visitor"
        item = work.enqueue(21)
        assert g.user == "visitor"
    assert (item.status, item.result(0), item.attempt) == (Status.SUCCEEDED, 42, 1)
    assert seen == [threading.current_thread(), 1, None, "shop"]
    assert background.get(item.id) is item
    assert background.stats() == (0, 0, 1, 0, 0, 0)
    assert background.enqueue(lambda: "ad hoc").result(0) == "ad hoc"


def test_nothing_is_waited_for(app: Flask, background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """No delay and no backoff is waited for; the log and the signal show the delay."""
    numbers: list[int] = []

    @background.task(max_attempts=3, backoff=600)
    def work() -> int:
        numbers.append(current_item.attempt)
        if len(numbers) < 3:
            raise OSError("no")
        return 42

    began = time.monotonic()
    with receiving(signals.item_retried, app) as retried:
        item = work.using(delay=3600).enqueue()
    assert time.monotonic() - began < 10
    assert (item.result(0), numbers, item.attempt) == (42, [1, 2, 3], 3)
    assert [values["delay"] for values in retried] == [600, 600]
    assert (
        len([line for line in lines(caplog, logging.WARNING) if "the next one follows in 600.0 s" in line])
        == 2
    )


def test_failure_stays_with_the_item(background: Background) -> None:
    """The function's exception, of any kind, is the item's outcome, and is not raised in the caller."""

    @background.task
    def work() -> None:
        raise SystemExit(3)

    item = work.enqueue()
    assert item.status is Status.FAILED
    assert isinstance(item.exception(0), SystemExit)


def test_coroutines(background: Background) -> None:
    """Coroutines, also of a caller on an event loop, and returned Futures have ended as well."""

    @background.task
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        return value * current_item.attempt

    async def view() -> Any:
        return work.enqueue(42).result(0)

    assert work.enqueue(42).result(0) == 42
    assert asyncio.run(view()) == 42
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        item = background.enqueue(lambda: pool.submit(lambda: 42))
        assert item.result(0) == 42


def test_arguments_make_the_way(make_site: Callable[..., Site]) -> None:
    """If arguments have to be data, the item gets equal ones, made anew for each attempt."""
    site = make_site(BACKGROUND_BACKEND="immediate", BACKGROUND_STRICT=True)
    seen: list[Any] = []

    def work(values: list[Any]) -> None:
        seen.append(values)
        values.append("mine")
        raise OSError("no")

    given = [Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC), (1, b"2")]
    task = site.background.task(max_attempts=2)(work)
    task.enqueue(given)
    assert seen == [[*given, "mine"], [*given, "mine"]]
    assert seen[0] is not given
    assert len(given) == 3
    with pytest.raises(SerializationError, match="values"):
        task.enqueue({1, 2})


def test_stands_for_durable(site: Site, tmp_path: Path) -> None:
    """A durable task needs no journal, and its arguments and result must be data all the same."""
    site.app.config["BACKGROUND_JOURNAL"] = str(tmp_path / "journal")
    task = site.background.task(durable=True)(lambda value: (value, object) if value else [value])
    item = task.enqueue(0)
    assert item.result(0) == [0]
    assert site.background.get(item.id) is item
    with pytest.raises(ResultLostError):
        task.enqueue(1).result(0)
    with pytest.raises(SerializationError):
        task.enqueue(object())
    assert site.background.items() == [item, site.background.items()[1]]
    assert not (tmp_path / "journal").exists()


def test_one_task(make_site: Callable[..., Site]) -> None:
    """A task can be immediate by itself, in an app whose others are not; a copy of it need not be."""
    site = make_site()
    task = site.background.task(backend="immediate")(threading.get_ident)
    assert task.enqueue().result(0) == threading.get_ident()
    other = task.using(backend="local").enqueue()
    assert other.result(20) != threading.get_ident()


def test_key_of_an_item_that_enqueues_itself(background: Background) -> None:
    """An item that enqueues its own task under its own key gets itself, and ends."""

    @background.task
    def work() -> str:
        return work.using(key="k").enqueue().id

    item = work.using(key="k").enqueue()
    assert item.result(0) == item.id


@pytest.mark.parametrize("name", ["later", "", None, 1])
def test_backends_that_do_not_exist(
    make_site: Callable[..., Site], background: Background, name: Any
) -> None:
    """An unknown backend is refused where it is named, with the names of the known ones."""
    with pytest.raises(ConfigurationError, match=r'BACKGROUND_BACKEND .*"celery" or "manual"'):
        make_site(BACKGROUND_BACKEND=name)
    if name is not None:
        with pytest.raises(ConfigurationError, match=r'option backend .*"local", "immediate" or "celery"'):
            background.task(backend=name)(print)


@pytest.mark.process  # with Celery, which the quick tests do without
def test_stands_for_celery(background: Background) -> None:
    """Arguments of a task that names Celery are held to what a message could carry."""
    task = background.task(backend="celery")(lambda value: value)
    given = [1]
    assert task.enqueue(given).result(0) == [1]
    assert task.enqueue(given).result(0) is not given
    with pytest.raises(SerializationError):
        task.enqueue(object())
