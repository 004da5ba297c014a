"""A monitor's actions on items that are in Celery."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_background import Background, Status
from flask_background.monitoring.snapshots import ItemQuery

from . import shop

pytestmark = pytest.mark.usefixtures("nothing_queued")


def test_cancel(app: Flask) -> None:
    """Items that wait there are cancelled by a query, or by their ids; an item of another task stays."""
    background: Background = app.extensions["background"]
    items = [shop.add.using(delay=60).enqueue(number, 1) for number in range(4)]
    other = shop.fail.using(delay=60).enqueue("no")
    monitor = background.monitor
    assert monitor.cancel([items[0].id, "0" * 24]) == 1
    assert monitor.cancel(ItemQuery(task=shop.add.name, status=Status.RUNNING)) == 0
    assert monitor.cancel(ItemQuery(task=shop.add.name)) == 3
    assert {item.status for item in items} == {Status.CANCELLED}
    assert other.status is Status.QUEUED
    assert monitor.retry(ItemQuery()) == monitor.delete(ItemQuery()) == 0
    assert monitor.cancel(ItemQuery()) == 1
    assert monitor.celery_error is None
