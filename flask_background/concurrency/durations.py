"""Numbers of seconds, bounded to values that clocks, timers and waits accept."""

from __future__ import annotations

import math
import time


def bounded(seconds: float) -> float:
    """Return seconds as a float from 0.0 to inf; NaN and negative numbers become 0.0.

    Raises TypeError if seconds is not a number.
    """
    try:
        number = float(seconds)
    except OverflowError:  # an int too large for a float
        return math.inf if seconds > 0 else 0.0
    return number if number > 0.0 else 0.0


def deadline(timeout: float | None) -> float:
    """Return when a wait of timeout seconds ends (``time.monotonic()``); inf without a limit (None)."""
    return math.inf if timeout is None else time.monotonic() + bounded(timeout)
