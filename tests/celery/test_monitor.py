"""What a Monitor shows of items in a Celery cluster that no worker takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background import Status, WorkItem
from flask_background.celery.client.backend import CeleryBackend
from flask_background.celery.records.record import Record
from flask_background.monitoring import reading
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import ItemQuery

from ..helpers import Site
from ..redis_server import Redis


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path, redis: Redis) -> Iterator[Site]:
    """An app whose tasks are Celery's, and nothing in Redis."""
    redis.forget_all()
    site = make_site(
        BACKGROUND_BACKEND="celery",
        BACKGROUND_CELERY={"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"},
        BACKGROUND_JOURNAL=tmp_path / "journal",
        BACKGROUND_PUBLISH_TIMEOUT=2.0,
    )
    with site.app.app_context():
        yield site


@pytest.fixture
def monitor(site: Site) -> Monitor:
    """The app's monitor."""
    return site.background.monitor


@pytest.fixture
def items(site: Site) -> list[WorkItem[None]]:
    """Items that wait, one of them for its time."""
    task = site.background.task(name="shop.pack", describe=lambda n: f"parcel {n}")(lambda n: None)
    return [*(task.enqueue(number) for number in range(5)), task.using(delay=3_600).enqueue(5)]


def test_items_in_flight(monitor: Monitor, items: list[WorkItem[None]]) -> None:
    """Items in flight are listed, page by page, counted, and found by their ids."""
    first = monitor.items(limit=4)
    rest = monitor.items(limit=4, after=first.next)
    found = [*first.items, *rest.items]
    assert [item.id for item in found] == [item.id for item in reversed(items)]
    assert rest.next is None
    assert {(item.place, item.status, item.executor) for item in found} == {
        ("celery", Status.QUEUED, "celery")
    }
    assert found[0].description == "parcel 5"
    assert monitor.counts().celery == {Status.QUEUED: 6, Status.RUNNING: 0}
    assert [item.id for item in monitor.items(ItemQuery(text="PARCEL 3")).items] == [items[3].id]
    assert not monitor.items(ItemQuery(task="other.*")).items
    one = monitor.get(items[0].id)
    assert one is not None
    assert (one.description, one.attempt, one.runs) == ("parcel 0", 0, ())
    assert items[0].cancel()
    assert monitor.counts().celery[Status.QUEUED] == 5
    ended = monitor.get(items[0].id)
    assert ended is not None
    assert ended.status is Status.CANCELLED
    assert monitor.celery_error is None


def test_no_redis(
    monitor: Monitor, items: list[WorkItem[None]], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis cannot be asked, the other items are shown, and the monitor says why some are missing.

    The looks of the next seconds say so without asking Redis; an action asks in any case.
    """
    asked: list[int] = []
    in_flight = CeleryBackend.in_flight

    def counted(backend: CeleryBackend, limit: int) -> list[tuple[str, Record]]:
        asked.append(limit)
        return in_flight(backend, limit)

    monkeypatch.setattr(CeleryBackend, "in_flight", counted)
    monkeypatch.setattr(reading, "_REST", 3_600.0)
    redis.stop()
    try:
        assert monitor.items().items == ()
        assert "cannot be reached" in (monitor.celery_error or "")
        assert monitor.counts().celery == {}
        assert monitor.get(items[0].id) is None
        assert monitor.items().items == ()
        assert "cannot be reached" in (monitor.celery_error or "")
        assert len(asked) == 1
        assert monitor.cancel(ItemQuery()) == 0
        assert monitor.cancel([item.id for item in items]) == 0
        assert len(asked) == 2
        monkeypatch.setattr(reading, "_REST", 0.0)
        assert monitor.cancel(ItemQuery()) == 0
    finally:
        redis.start()
    assert len(monitor.items().items) == len(items)
    assert monitor.celery_error is None
