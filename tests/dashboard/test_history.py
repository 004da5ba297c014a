"""The tally of the last hours, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flask_background.core.status import Status
from flask_background.dashboard import history
from flask_background.monitoring.snapshots import BUCKETS, Distribution, TallyEntry

from .conftest import Shop

pytestmark = pytest.mark.process
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def entry(at: datetime, items: int, status: Status = Status.SUCCEEDED, task: str = "work") -> TallyEntry:
    """Return an entry whose items all waited and ran for less than a second."""
    counts = (0,) * 7 + (items,) + (0,) * (len(BUCKETS) - 7)
    took = Distribution(counts=counts, seconds=items / 2)
    return TallyEntry(at=at, task=task, status=status, items=items, waits=took, runs=took)


@pytest.mark.parametrize(("minutes", "number"), [(1, 15), (3, 20), (5, 36), (15, 24), (60, 24)])
def test_span(minutes: int, number: int) -> None:
    """A span ends with the present step, and all spans of a step have the same beginnings."""
    over = history.span(NOW, minutes * MINUTE, number)
    assert over.until - minutes * MINUTE <= NOW < over.until
    assert over.length == number * minutes * MINUTE
    later = history.span(NOW + 7 * minutes * MINUTE, minutes * MINUTE, number)
    assert later.since - over.since == 7 * minutes * MINUTE
    assert len(history.clock(over)) == number


def test_sums() -> None:
    """Entries are added up by step and by task."""
    first = [entry(NOW, 3), entry(NOW, 2, Status.FAILED), entry(NOW, 1, task="other")]
    second = [entry(NOW + MINUTE, 5)]
    tasks = history.by_task([first, second])
    assert [history.counts(step) for step in tasks["work"]] == [(5, 2), (5, 0)]
    assert [history.counts(step) for step in tasks["other"]] == [(1, 0), (0, 0)]
    sums = history.sums([*first, *second])
    assert (sums.ended, sums.failed, sums.waits.total, sums.runs.seconds) == (11, 2, 11, 5.5)
    assert history.sums([]).waits.quantile(0.5) is None


@pytest.mark.parametrize(("minutes", "number"), [(1, 15), (3, 20), (5, 36), (15, 24), (60, 24)])
def test_steps(shop: Shop, minutes: int, number: int) -> None:
    """What ended just now is in the last step or in the one before, whatever the length of the steps."""
    shop.ended("bounce", "no such address")
    over = history.span(datetime.now(UTC), minutes * MINUTE, number)
    with shop.app.app_context():
        steps: Any = history.steps(shop.background.monitor, over)
    assert len(steps) == number
    assert sum(history.counts(step)[1] for step in steps[-2:]) == 1
