"""Odd numbers and texts as options are refused where they enter, or bounded. None breaks an item."""

from __future__ import annotations

import math
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flask_background import Background, Status
from flask_background.core.checks import LONGEST, shown
from flask_background.core.schedule import Every, to_timestamp
from flask_background.core.settings import Settings
from flask_background.errors import ConfigurationError, NotFinishedError

from ..helpers import BOUND, records

HUGE = [1e300, sys.maxsize, 10**400, 10**5000]
BERLIN = ZoneInfo("Europe/Berlin")
WRONG = [math.nan, math.inf, -math.inf, -1, -(10**400), -(10**5000), "60", True, 1j]


def ascii_id(value: object) -> str:
    """A test's name for a value that may have no text."""
    return shown(value)[:40].encode("ascii", "replace").decode()


TEXTS = ["\ud800", "a\udfffb", "", 7, b"key"]


@pytest.mark.parametrize("value", HUGE, ids=ascii_id)
def test_huge_numbers_are_bounded(background: Background, value: float) -> None:
    """A number of seconds of any size is a hundred years at most, and its item can be seen and withdrawn."""
    task = background.task(timeout=value, backoff=value, max_attempts=2)(lambda: 42)
    assert task.options.timeout == task.options.backoff == LONGEST
    assert task.enqueue().result(BOUND) == 42
    item = task.using(delay=value).enqueue()
    assert item.status is Status.QUEUED
    assert item.cancel()
    assert to_timestamp(value, None, 7.0) == 7.0 + LONGEST
    assert Every(value).next_after(7.0) == 7.0 + LONGEST
    assert Settings.from_config({"BACKGROUND_GRACE_PERIOD": value}).grace_period == LONGEST


@pytest.mark.parametrize("value", WRONG, ids=ascii_id)
@pytest.mark.parametrize("option", ["timeout", "backoff", "delay"])
def test_wrong_numbers_are_refused(background: Background, option: str, value: Any) -> None:
    """A value that is not a number of seconds from 0 is refused by name, whatever its text is."""
    task = background.task(lambda: None)
    with pytest.raises(ConfigurationError, match=f"option {option} is "):
        task.using(**{option: value})  # type: ignore[misc]
    with pytest.raises(ConfigurationError):
        Every(value)
    with pytest.raises(ConfigurationError, match="BACKGROUND_KEEP"):
        Settings.from_config({"BACKGROUND_KEEP": value})


@pytest.mark.parametrize("count", [0, -1, 10**400, 10**5000, math.inf, True, "3"], ids=ascii_id)
@pytest.mark.parametrize("option", ["max_attempts", "max_crashes"])
def test_wrong_counts_are_refused(background: Background, option: str, count: Any) -> None:
    """A count is a whole number of a size that can be stored."""
    with pytest.raises(ConfigurationError, match=f"option {option} is .*from 1 to"):
        background.task(lambda: None).using(**{option: count})  # type: ignore[misc]


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-14)), BERLIN])
@pytest.mark.parametrize("moment", [datetime.max, datetime.min])
def test_ends_of_time(background: Background, moment: datetime, zone: Any) -> None:
    """The first and the last moment that there are: refused by name, or at once, or in a hundred years."""
    task = background.task(lambda: 42)
    at = moment.replace(tzinfo=zone)
    item = task.using(run_at=at).enqueue()
    if moment is datetime.min:
        assert item.result(BOUND) == 42
    else:
        assert item.status is Status.QUEUED
        assert item.cancel()
    due = to_timestamp(None, at, time.time())
    assert due <= time.time() + LONGEST


@pytest.mark.parametrize("delay", [timedelta.max, timedelta(days=400_000)])
def test_longest_timedelta(background: Background, delay: timedelta) -> None:
    """A timedelta of any length waits, and can be withdrawn."""
    item = background.task(lambda: 42).using(delay=delay).enqueue()
    assert not item.wait(0)
    assert item.cancel()


@pytest.mark.parametrize(
    "backoff",
    [
        lambda attempt, error: 2.0 ** (attempt * 10_000),
        lambda attempt, error: math.exp(10_000),
        lambda attempt, error: 10**400,
        lambda attempt, error: 10**5000,
        lambda attempt, error: sys.maxsize,
        lambda attempt, error: math.nan,
        lambda attempt, error: math.inf,
        lambda attempt, error: -1,
        lambda attempt, error: timedelta(seconds=1),
        lambda attempt, error: datetime.max,
        lambda attempt, error: None,
        lambda attempt: 1,
    ],
)
def test_backoff_that_cannot_be_used(
    background: Background,
    backoff: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default backoff replaces a function that returns no usable number, and the error says so."""
    monkeypatch.setattr("flask_background.core.retry._default", lambda attempt: 0.0)

    def fail() -> None:
        raise OSError

    item = background.task(max_attempts=2, backoff=backoff)(fail).enqueue()
    assert isinstance(item.exception(BOUND), OSError)
    assert item.attempt == 2
    (retried,) = [record for record in records(caplog) if "attempt 1 of 2" in record.getMessage()]
    assert "The default backoff was used" in retried.getMessage()


@pytest.mark.parametrize("timeout", [math.nan, -1, -(10**400), 0])
def test_waits_of_odd_lengths(background: Background, gate: Any, timeout: float) -> None:
    """The error of a wait with an odd timeout says how long it has waited."""
    item = background.enqueue(gate.wait, BOUND)
    with pytest.raises(NotFinishedError, match="has not ended, after 0 s"):
        item.result(timeout)
    gate.set()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("option", ["key", "name", "executor"])
def test_texts_that_cannot_be_written(background: Background, option: str, text: Any) -> None:
    """Names and keys that cannot be encoded are refused by name, in a message that can be encoded."""

    def make() -> None:
        if option == "key":
            background.task(lambda: None).using(key=text)
        else:
            background.task(**{option: text})(lambda: None)  # type: ignore[call-overload]

    with pytest.raises(ConfigurationError, match=f"option {option} is ") as caught:
        make()
    str(caught.value).encode()


def test_no_item_has_such_an_id(background: Background) -> None:
    """A look-up of an item or a task by something that cannot be a name finds nothing."""
    for text in TEXTS:
        assert background.get(text) is None  # type: ignore[arg-type]
        assert background.items(task=text) == []  # type: ignore[arg-type]
