"""Checks of options and settings, and the wording that their errors share."""

from __future__ import annotations

import math
from typing import TypeGuard

from flask_background.errors import ConfigurationError

#: The longest delay, backoff, timeout or period, in seconds: a hundred years.
LONGEST = 100 * 365.25 * 86_400.0


def is_number(value: object) -> TypeGuard[float]:
    """Return whether value is a number. True and False are not numbers here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether value is a whole number. True and False are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_duration(value: object) -> TypeGuard[float]:
    """Return whether value is a finite number of seconds from 0, of any size."""
    return is_number(value) and 0 <= value < math.inf


def at_most(seconds: float) -> float:
    """Return seconds as a float that clocks and dates can take: a hundred years at most."""
    return float(min(seconds, LONGEST))


def is_text(value: object) -> TypeGuard[str]:
    """Return whether value is a string that is not empty and can be written anywhere."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def shown(value: object) -> str:
    """Return any value as text for an error: one line of bounded length, which can be written anywhere."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except Exception:  # of a number with too many digits, or a class of the app's
        return f"a value of the type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def wrong_option(option: str, value: object, allowed: str) -> ConfigurationError:
    """Return the error for an option that a task cannot have."""
    return ConfigurationError(f"the task's option {option} is {shown(value)}; allowed is {allowed}")
