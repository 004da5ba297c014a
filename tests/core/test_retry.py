"""Retries: after which errors, how often, and after how many seconds."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from flask_background import Background, Status
from flask_background.core.retry import RetryPolicy
from flask_background.errors import ConfigurationError

from ..helpers import BOUND


def test_default_is_one_attempt() -> None:
    """Without options a failed run is the last."""
    assert RetryPolicy().delay_after(1, OSError()) is None


def test_attempts_are_counted() -> None:
    """An item runs max_attempts times in all, so no run follows the last one."""
    policy = RetryPolicy(max_attempts=3, backoff=2)
    assert [policy.delay_after(attempt, OSError()) for attempt in (1, 2, 3, 4)] == [2.0, 2.0, None, None]


def test_retry_on() -> None:
    """Only these errors, and those that inherit from them, are tried again."""
    policy = RetryPolicy(max_attempts=9, backoff=0, retry_on=(OSError, KeyError))
    assert policy.delay_after(1, ConnectionResetError()) == 0.0
    assert policy.delay_after(1, KeyError()) == 0.0
    assert policy.delay_after(1, ValueError()) is None


def test_system_exit_is_not_retried_unless_asked() -> None:
    """By default an error that is no Exception is not retried."""
    assert RetryPolicy(max_attempts=2).delay_after(1, SystemExit()) is None
    assert RetryPolicy(max_attempts=2, retry_on=(BaseException,)).delay_after(1, SystemExit()) is not None


@pytest.mark.parametrize(
    ("attempt", "most"), [(1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (12, 600), (100_000, 600)]
)
def test_default_backoff(attempt: int, most: float) -> None:
    """The default doubles up to ten minutes, and spreads over its upper half."""
    policy = RetryPolicy(max_attempts=1_000_000)
    delays = [policy.delay_after(attempt, OSError()) for _ in range(200)]
    assert all(delay is not None and most / 2 <= delay <= most for delay in delays)
    assert len(set(delays)) > 100


def test_backoff_function() -> None:
    """A backoff function gets the attempt and its error, and its answer is used."""
    asked = []

    def backoff(attempt: int, error: BaseException) -> float:
        asked.append((attempt, error))
        return attempt * 10

    error = OSError()
    assert RetryPolicy(5, backoff).delay_after(3, error) == 30.0
    assert asked == [(3, error)]
    assert not hasattr(error, "__notes__")


def test_backoff_function_is_not_asked_in_vain() -> None:
    """The backoff function is not called after the last run, nor after errors that are not retried."""

    def backoff(attempt: int, error: BaseException) -> float:
        raise AssertionError

    policy = RetryPolicy(2, backoff, (OSError,))
    for attempt, error in ((2, OSError()), (1, ValueError())):
        assert policy.delay_after(attempt, error) is None
        assert not hasattr(error, "__notes__")


def _raising(error: BaseException) -> Callable[..., Any]:
    def backoff(attempt: int, cause: BaseException) -> float:
        raise error

    return backoff


@pytest.mark.parametrize(
    ("backoff", "said"),
    [
        (_raising(ZeroDivisionError("by zero")), "raised ZeroDivisionError: by zero"),
        (_raising(SystemExit(3)), "raised SystemExit: 3"),
        (lambda attempt: 1.0, "raised TypeError"),
        (lambda attempt, error: None, "returned None"),
        (lambda attempt, error: "5", "returned '5'"),
        (lambda attempt, error: True, "returned True"),
        (lambda attempt, error: -1, "returned -1"),
        (lambda attempt, error: math.nan, "returned nan"),
        (lambda attempt, error: math.inf, "returned inf"),
    ],
)
def test_unusable_backoff_function(backoff: Callable[..., Any], said: str) -> None:
    """A faulty backoff function costs no retry; the log shows its fault with the item's error."""
    error = OSError("no connection")
    delay = RetryPolicy(5, backoff).delay_after(2, error)
    assert delay is not None
    assert 1.0 <= delay <= 2.0
    log = "".join(traceback.format_exception(error))
    assert said in log
    assert backoff.__qualname__ in log
    assert "default backoff" in log


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_attempts", 0, "a whole number from 1"),
        ("max_attempts", True, "a whole number from 1"),
        ("max_attempts", 2.0, "a whole number from 1"),
        ("backoff", -1, "a number of seconds from 0"),
        ("backoff", True, "a number of seconds from 0"),
        ("backoff", math.inf, "a number of seconds from 0"),
        ("backoff", math.nan, "a number of seconds from 0"),
        ("backoff", "1", "a number of seconds from 0"),
        ("retry_on", OSError, "a tuple of exception classes"),
        ("retry_on", [OSError], "a tuple of exception classes"),
        ("retry_on", (OSError(),), "a tuple of exception classes"),
        ("retry_on", (int,), "a tuple of exception classes"),
    ],
)
def test_validation(option: str, value: object, allowed: str) -> None:
    """An option that cannot be used is named, with its value and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**{option: value})  # type: ignore[arg-type]
    assert f"option {option} is {value!r}; allowed is {allowed}" in str(caught.value)


def test_policy_is_frozen() -> None:
    """Policies are shared between items, so they cannot be changed."""
    with pytest.raises(AttributeError):
        RetryPolicy().max_attempts = 2  # type: ignore[misc]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_items_that_end_themselves(
    background: Background, kind: type[BaseException], coroutine: bool, named: bool
) -> None:
    """An error that is no Exception fails its item, and is retried only if retry_on names it."""

    def leave() -> None:
        raise kind

    async def leave_later() -> None:
        await asyncio.sleep(0)
        raise kind

    options: dict[str, Any] = {"max_attempts": 2, "backoff": 0}
    if named:
        options["retry_on"] = (kind,)
    item = background.task(**options)(leave_later if coroutine else leave).enqueue()
    assert isinstance(item.exception(BOUND), kind)
    assert item.status is Status.FAILED
    assert item.attempt == (2 if named else 1)
