"""Processes that are killed and stopped at random while they work."""

from __future__ import annotations

import pytest

from .conftest import StartStorm, Tell
from .toys import Deleting, Forgetting, Leasing, Plain

FAST = {"mode": "truncate", "synchronous": "OFF"}


def test_a_sound_toy_weathers_it(storm: StartStorm, tell: Tell) -> None:
    """Nothing is lost, nothing runs twice at once, and what is done stays done."""
    made = storm(Plain, {"subject": FAST, "mode": {"every": 0.05}, "takes": 0.02})
    made.rage(kills=20, seconds=10)
    made.calm()
    report = made.report()
    tell(report)
    assert not report.wrong, report
    assert report.kills
    assert report.again <= report.in_flight


@pytest.mark.parametrize(
    ("toy", "complaint"),
    [
        (Deleting, "has no outcome"),
        (Leasing, "ran twice at once"),
        (Forgetting, "though it was done"),
    ],
)
def test_unsound_toys_are_caught(storm: StartStorm, toy: type[Plain], complaint: str) -> None:
    """A lost item, two runs at once and a run too many are told."""
    made = storm(toy, {"subject": FAST, "mode": {"every": 0.05}, "takes": 0.02 if toy is Forgetting else 0.2})
    made.rage(kills=8, seconds=5)
    made.calm(patience=1.0)
    report = made.report()
    assert any(complaint in wrong for wrong in report.wrong), report
