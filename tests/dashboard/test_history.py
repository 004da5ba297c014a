"""The counts of past minutes are asked for once, and those of the present each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from flask import Flask

from flask_background.core.status import Status
from flask_background.dashboard import history
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import BUCKETS, Distribution, TallyEntry

pytestmark = pytest.mark.unit
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NONE = Distribution(counts=(0,) * (len(BUCKETS) + 1), seconds=0.0)


class Counting:
    """A monitor in which one more item of each minute is counted at each question."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []

    def tally(self, since: datetime, until: datetime, step: timedelta) -> list[TallyEntry]:
        """Count one item in each step, as often as the monitor has been asked."""
        self.asked.append((since, until))
        entries = []
        while since < until:
            entries.append(
                TallyEntry(
                    at=since, task="work", status=Status.FAILED, items=len(self.asked), waits=NONE, runs=NONE
                )
            )
            since += step
        return entries


def test_past_steps_are_asked_for_once() -> None:
    """What has settled is kept, and what may still change is asked for anew."""
    app, counting = Flask("shop"), Counting()
    monitor = cast(Monitor, counting)
    over = history.span(NOW, timedelta(hours=1), 20)
    first = history.steps(app, monitor, over, NOW)
    assert [step.sums.failed for step in first] == [1] * 20
    second = history.steps(app, monitor, over, NOW)
    assert [step.sums.failed for step in second] == [1] * 18 + [2] * 2
    assert counting.asked == [(over.since, over.until), (over.until - 6 * MINUTE, over.until)]
    later = NOW + timedelta(minutes=30)
    moved = history.span(later, timedelta(hours=1), 20)
    third = history.steps(app, monitor, moved, later)
    assert [step.sums.failed for step in third] == [1] * 8 + [3] * 12
    assert counting.asked[-1] == (moved.since + 8 * 3 * MINUTE, moved.until)


def test_other_apps_and_steps_have_their_own() -> None:
    """Neither another app's counts nor those of another length of step are shown."""
    app, counting = Flask("shop"), Counting()
    monitor: Any = counting
    over = history.span(NOW, timedelta(hours=1), 20)
    history.steps(app, monitor, over, NOW)
    history.steps(Flask("other"), monitor, over, NOW)
    history.steps(app, monitor, history.span(NOW, timedelta(hours=3), 36), NOW)
    assert [until - since for since, until in counting.asked] == [
        timedelta(hours=1),
        timedelta(hours=1),
        timedelta(hours=3),
    ]


def test_a_gap_is_asked_for() -> None:
    """After hours without a visitor the steps between are asked for."""
    app, counting = Flask("shop"), Counting()
    monitor: Any = counting
    for at in (NOW, NOW + timedelta(hours=30)):
        over = history.span(at, timedelta(hours=3), 36)
        assert len(history.steps(app, monitor, over, at)) == 36
        assert counting.asked[-1] == (over.since, over.until)
