"""Schedules: when the next run is, over clock changes too, and when a delayed item may start."""

from __future__ import annotations

import math
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from flask_background.core.schedule import Cron, Every, Schedule, in_words, to_timestamp
from flask_background.errors import ConfigurationError

BERLIN = "Europe/Berlin"


def berlin(*when: int, fold: int = 0) -> float:
    """The timestamp of a time in Berlin."""
    return datetime(*when, fold=fold, tzinfo=ZoneInfo(BERLIN)).timestamp()  # type: ignore[misc, arg-type]


def runs(schedule: Schedule, now: float, count: int) -> list[float]:
    """The next times, each asked for with the one before."""
    times = []
    for _ in range(count):
        now = schedule.next_after(now)
        times.append(now)
    return times


def test_every() -> None:
    """Runs are so many seconds apart."""
    assert runs(Every(90), 1000.5, 3) == [1090.5, 1180.5, 1270.5]


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (1000.0, 1060.0),  # in time
        (1000.2, 1060.0),
        (1059.9, 1060.0),
        (1060.0, 1120.0),
        (
            1000.0 + 86_400 * 30 + 1,
            1000.0 + 86_400 * 30 + 60,
        ),  # a month late: one run, and then in step again
        (940.5, 1000.0),  # the clock was set back
        (400.0, 460.0),
    ],
)
def test_every_catches_up_once(now: float, due: float) -> None:
    """One run stands for all missed ones, and then the schedule is in step again."""
    assert Every(60).catch_up(1000.0, now) == due


def test_every_always_goes_on() -> None:
    """The next time lies ahead, at most one interval away, however floats are rounded."""
    every = Every(0.1)
    planned = 1_700_000_000.7
    for step in range(2_000):
        now = planned + step * 0.1
        due = every.catch_up(planned, now)
        assert now < due <= now + 0.1 + 1e-6


@pytest.mark.parametrize("seconds", [0, -1, 0.001, math.nan, math.inf, True, "60", None])
def test_every_validates(seconds: object) -> None:
    """A value that is not a number of seconds is refused, and named."""
    with pytest.raises(ConfigurationError) as caught:
        Every(seconds)  # type: ignore[arg-type]
    assert f"{seconds!r}" in str(caught.value)
    assert "a number of seconds from 0.01" in str(caught.value)


def test_cron_in_utc() -> None:
    """Without a time zone it is UTC."""
    now = datetime(2024, 2, 28, 4, 30, 0, 1, tzinfo=UTC).timestamp()
    due = [datetime(2024, 2, 29, 4, 30, tzinfo=UTC), datetime(2024, 3, 1, 4, 30, tzinfo=UTC)]
    assert runs(Cron("30 4 * * *"), now, 2) == [moment.timestamp() for moment in due]


def test_cron_in_utc_needs_no_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default works on a machine without a time zone database."""
    monkeypatch.setattr(zoneinfo, "ZoneInfo", {}.__getitem__)
    assert Cron("30 4 * * *").next_after(0.0) == 4.5 * 3600
    with pytest.raises(ConfigurationError, match="pip install tzdata"):
        Cron("30 4 * * *", BERLIN)


def test_cron_after_means_after() -> None:
    """The next time after a planned time is the following one; just before it, the planned time itself."""
    due = datetime(2024, 2, 28, 4, 30, tzinfo=UTC).timestamp()
    assert Cron("30 4 * * *").next_after(due) == due + 86_400
    assert Cron("30 4 * * *").next_after(due - 0.001) == due


def test_cron_in_a_time_zone() -> None:
    """The hour is local time of the zone, in winter as in summer."""
    cron = Cron("0 9 * * MON-FRI", BERLIN)
    assert cron.next_after(berlin(2024, 3, 29, 9, 0)) == berlin(
        2024, 4, 1, 9, 0
    )  # over a weekend and a change
    assert datetime.fromtimestamp(berlin(2024, 4, 1, 9, 0), UTC).hour == 7


def test_cron_in_spring() -> None:
    """A run planned for the skipped hour starts once, right after the gap."""
    due = runs(Cron("30 2 * * *", BERLIN), berlin(2024, 3, 30, 12, 0), 2)
    assert due == [berlin(2024, 3, 31, 3, 0), berlin(2024, 4, 1, 2, 30)]


def test_cron_in_autumn() -> None:
    """A run planned for the hour that comes twice starts in the first one."""
    due = runs(Cron("30 2 * * *", BERLIN), berlin(2024, 10, 26, 12, 0), 2)
    assert due == [berlin(2024, 10, 27, 2, 30, fold=0), berlin(2024, 10, 28, 2, 30)]


def test_cron_in_the_second_pass() -> None:
    """In the second pass of a repeated hour the times of the first pass are over."""
    cron = Cron("30 2 * * *", BERLIN)
    assert cron.next_after(berlin(2024, 10, 27, 2, 10, fold=1)) == berlin(2024, 10, 28, 2, 30)


def test_cron_with_a_star_counts_real_time() -> None:
    """A half-hourly schedule stays half-hourly over clock changes."""
    for evening in (berlin(2024, 3, 30, 23, 0), berlin(2024, 10, 26, 23, 0)):
        due = runs(Cron("*/30 * * * *", BERLIN), evening, 20)
        assert {later - earlier for earlier, later in pairwise(due)} == {1800.0}


def test_cron_never_stands_still() -> None:
    """Over both changes every time lies after the one before, for all kinds of expressions."""
    for expression in ("*/7 * * * *", "15 * * * *", "0,30 2 * * *", "*/20 2,3 * * *", "5 2-3 * * SUN"):
        cron = Cron(expression, BERLIN)
        for begin in (berlin(2024, 3, 30, 22, 0), berlin(2024, 10, 26, 22, 0)):
            for quarter in range(40):
                now = begin + quarter * 900 + 0.5
                assert cron.next_after(now) > now


def test_cron_catches_up_once() -> None:
    """After days without a run the next time lies ahead."""
    cron = Cron("0 4 * * *", BERLIN)
    assert cron.catch_up(berlin(2024, 1, 1, 4, 0), berlin(2024, 5, 1, 12, 0)) == berlin(2024, 5, 2, 4, 0)
    # The clock was set back.
    assert cron.catch_up(berlin(2024, 5, 1, 4, 0), berlin(2024, 1, 1, 12, 0)) == berlin(2024, 1, 2, 4, 0)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "0 * * * * *",
        "@daily",
        "60 * * * *",
        "* * 0 * *",
        "* * * JANUARY *",
        "0 0 30 2 *",
        "0 0 */31 2 MON#5",
        5,
        None,
    ],
)
def test_cron_validates_the_expression(expression: object) -> None:
    """A text that is no expression, or names no day that exists, is refused at once and named."""
    with pytest.raises(ConfigurationError) as caught:
        Cron(expression)  # type: ignore[arg-type]
    assert f"{expression!r}" in str(caught.value)
    assert "allowed are five fields" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Europe/Atlantis", "Europe", "", "../passwd", "/etc/passwd", "a\0b", 2, None, UTC]
)
def test_cron_validates_the_time_zone(name: object) -> None:
    """A text that names no time zone is refused at once and named."""
    with pytest.raises(ConfigurationError) as caught:
        Cron("0 4 * * *", name)  # type: ignore[arg-type]
    assert f"{name!r}" in str(caught.value)
    assert "Europe/Berlin" in str(caught.value)


_WITHOUT_CRONSIM = """
import sys
import zoneinfo
sys.modules["cronsim"] = None
from flask_background.core.schedule import Cron, Every
Every(60)
try:
    Cron("0 4 * * *")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.process
def test_cron_without_cronsim() -> None:
    """Schedules work without the extra ``cron``; an expression then raises an error that names the extra."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_CRONSIM], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.startswith("ConfigurationError")
    assert "0 4 * * *" in done.stdout
    assert "pip install flask-background[cron]" in done.stdout


def test_specs() -> None:
    """Equal schedules have equal reprs, and others do not: the journal compares them to see a change."""
    assert repr(Cron("0 4 * * *")) == repr(Cron("0 4 * * *", "UTC"))
    assert (
        len({repr(each) for each in (Every(60), Every(61), Cron("0 4 * * *"), Cron("0 4 * * *", BERLIN))})
        == 4
    )


@pytest.mark.parametrize(
    ("delay", "run_at", "due"),
    [
        (None, None, 1000.0),
        (0, None, 1000.0),
        (1.5, None, 1001.5),
        (timedelta(minutes=1, milliseconds=500), None, 1060.5),
        (None, datetime(1970, 1, 1, 1, tzinfo=UTC), 3600.0),
        (None, datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        (None, datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo(BERLIN)), 1_729_992_600.0),
    ],
)
def test_to_timestamp(delay: float | timedelta | None, run_at: datetime | None, due: float) -> None:
    """A delay counts from now, and a run_at is taken as it is, even if it has passed."""
    assert to_timestamp(delay, run_at, 1000.0) == due


@pytest.mark.parametrize(
    "delay", [-0.1, timedelta(seconds=-1), math.nan, math.inf, True, "5", datetime(2024, 1, 1, tzinfo=UTC)]
)
def test_delay_is_validated(delay: object) -> None:
    """A delay is a number of seconds or a timedelta, and never negative."""
    with pytest.raises(ConfigurationError) as caught:
        to_timestamp(delay, None, 1000.0)  # type: ignore[arg-type]
    assert f"option delay is {delay!r}; allowed is a number of seconds from 0" in str(caught.value)


@pytest.mark.parametrize("run_at", [datetime(2024, 1, 1), 1_700_000_000.0, "2024-01-01T00:00:00Z"])
def test_run_at_is_validated(run_at: object) -> None:
    """A datetime without a time zone would mean another time on each machine: the cure is named."""
    with pytest.raises(ConfigurationError) as caught:
        to_timestamp(None, run_at, 1000.0)  # type: ignore[arg-type]
    assert f"option run_at is {run_at!r}" in str(caught.value)
    assert "datetime.now(UTC) + timedelta(hours=1)" in str(caught.value)


def test_delay_or_run_at() -> None:
    """A delay and a run_at together are refused."""
    with pytest.raises(ConfigurationError, match="not both"):
        to_timestamp(1, datetime(2024, 1, 1, tzinfo=UTC), 1000.0)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (repr(Every(seconds=600)), "every 10 minutes"),
        (repr(Every(seconds=60.0)), "every minute"),
        (repr(Every(seconds=3_600)), "every hour"),
        (repr(Every(seconds=5_400)), "every 90 minutes"),
        (repr(Every(seconds=172_800)), "every 2 days"),
        (repr(Every(seconds=1)), "every second"),
        (repr(Every(seconds=0.25)), "every 0.25 seconds"),
        (repr(Every(seconds=90.5)), "every 90.5 seconds"),
        (repr(Every(seconds=1e300)), "every 36,525 days"),
        (repr(Cron("30 4 * * MON-FRI", "Europe/Berlin")), "30 4 * * MON-FRI (Europe/Berlin)"),
        (repr(Cron("*/5 * * * *")), "*/5 * * * * (UTC)"),
        ("Every(seconds=1.2.3)", "Every(seconds=1.2.3)"),
        ("Cron(expression='x, timezone='y')", "Cron(expression='x, timezone='y')"),
        ("Cron(expression=[[], timezone=1 + 1)", "Cron(expression=[[], timezone=1 + 1)"),
        ("anything", "anything"),
    ],
)
def test_words(spec: str, text: str) -> None:
    """A schedule is told to people in words; a text that is no schedule stays."""
    assert in_words(spec) == text
