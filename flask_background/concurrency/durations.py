"""Any number of seconds, made one that clocks, timers and waits can take."""

from __future__ import annotations

import math
import time


def bounded(seconds: float) -> float:
    """The number of seconds as a float from 0.0 to inf: NaN and what is negative count as 0.0.

    Raises TypeError if it is no number.
    """
    try:
        number = float(seconds)
    except OverflowError:  # an int that no float can hold
        return math.inf if seconds > 0 else 0.0
    return number if number > 0.0 else 0.0


def deadline(timeout: float | None) -> float:
    """When (``time.monotonic()``) a wait of timeout seconds is over; inf if it has no limit (None)."""
    return math.inf if timeout is None else time.monotonic() + bounded(timeout)
