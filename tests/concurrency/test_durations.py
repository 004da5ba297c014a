"""Any number of seconds becomes one that clocks and waits accept."""

from __future__ import annotations

import math
import sys
import time
from decimal import Decimal
from fractions import Fraction

import pytest

from flask_background.concurrency.durations import bounded, deadline


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (True, 1.0),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 2), 0.5),
        (-1, 0.0),
        (-0.0, 0.0),
        (-math.inf, 0.0),
        (-(10**400), 0.0),
        (math.nan, 0.0),
        (1e300, 1e300),
        (sys.maxsize, float(sys.maxsize)),
        (math.inf, math.inf),
        (10**400, math.inf),
    ],
)
def test_bounded(seconds: float, number: float) -> None:
    """NaN and negative numbers mean now; a number too large for a float means never."""
    assert bounded(seconds) == number
    assert math.copysign(1.0, bounded(seconds)) == 1.0


@pytest.mark.parametrize("seconds", ["soon", None, [], object()])
def test_no_number(seconds: object) -> None:
    """A value that is not a number is refused."""
    with pytest.raises((TypeError, ValueError)):
        bounded(seconds)  # type: ignore[arg-type]


def test_deadline() -> None:
    """A deadline is timeout seconds from now, and inf without a timeout."""
    now = time.monotonic()
    assert now + 5 <= deadline(5) < now + 60
    assert now <= deadline(-5) < now + 60
    assert now <= deadline(math.nan) < now + 60
    assert deadline(None) == deadline(10**400) == math.inf
