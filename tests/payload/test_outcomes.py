"""Progress, results and errors of items, as text of bounded size."""

from __future__ import annotations

import json

import pytest

from flask_background.core.status import Progress
from flask_background.payload.outcomes import (
    error_as_data,
    error_of,
    progress_as_data,
    progress_of,
    result_as_data,
    result_of,
)

LIMIT = 10_000
NOTE = "BACKGROUND_MAX_PAYLOAD"


def huge(letter: str) -> str:
    """A text that is far too long."""
    return letter * 3_000_000


def chained() -> BaseException:
    """An error with a long text, and a cause with another one."""
    try:
        try:
            raise KeyError(huge("a"))
        except KeyError as cause:
            raise ValueError(huge("b")) from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600", "\ud800", "\n"])
def test_long_errors_are_cut(letter: str) -> None:
    """The text of an error, and its traceback, are cut, and say so."""
    text = error_as_data(ValueError(huge(letter)), LIMIT)
    assert len(text) < 3 * LIMIT
    failed = str(error_of(text, "item 1"))
    assert failed.startswith("item 1 failed with builtins.ValueError: " + letter)
    assert NOTE in failed
    assert "3,000,000 characters" in failed


def test_causes_are_cut() -> None:
    """The causes of an error count as well, and so does the name of its class."""
    text = error_as_data(chained(), LIMIT)
    assert len(text) < 3 * LIMIT
    assert NOTE in "".join(error_of(text, "item 1").__notes__)
    assert len(error_as_data(type(huge("C"), (Exception,), {})(), LIMIT)) < 3 * LIMIT


@pytest.mark.parametrize("letter", ["x", "é", "\ud800"])
def test_long_messages_are_cut(letter: str) -> None:
    """The message of a progress is cut; its numbers stay."""
    text = progress_as_data(Progress(1, 2, huge(letter)), LIMIT)
    assert len(text) < 2 * LIMIT
    progress = progress_of(text)
    assert progress[:2] == (1, 2)
    assert progress.message is not None
    assert progress.message.startswith(letter)
    assert NOTE in progress.message


def test_short_ones_stay() -> None:
    """A text that fits is kept as it is."""
    assert progress_of(progress_as_data(Progress(1, None, "half"), LIMIT)) == Progress(1, None, "half")
    assert progress_as_data(Progress(1), LIMIT) == "[1, null, null]"
    assert (
        str(error_of(error_as_data(ValueError("no"), LIMIT), "item"))
        == "item failed with builtins.ValueError: no"
    )


def test_why_a_result_is_lost() -> None:
    """The message of a lost result is bounded, too, because it may quote the result."""

    class Odd:
        """Has a long name."""

    Odd.__qualname__ = huge("O")
    text = result_as_data(Odd(), LIMIT)
    assert len(text) < 2 * LIMIT
    value, error = result_of(text)
    assert value is None
    assert error is not None
    assert json.loads(text)
