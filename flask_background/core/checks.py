"""Checks of options and settings, and the wording that their errors share."""

from __future__ import annotations

from typing import TypeGuard

from flask_background.errors import ConfigurationError


def is_number(value: object) -> TypeGuard[float]:
    """Return whether value is a number. True and False are not numbers here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether value is a whole number. True and False are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool)


def wrong_option(option: str, value: object, allowed: str) -> ConfigurationError:
    """Return the error for an option that a task cannot have."""
    return ConfigurationError(f"the task's option {option} is {value!r}; allowed is {allowed}")
