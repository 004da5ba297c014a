"""Processes that are killed and stopped at random while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Tell
from .storm import Storm
from .toys import Deleting, Forgetting, Leasing, Plain

FAST = {"mode": "truncate", "synchronous": "OFF"}


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Callable[..., Storm]]:
    """Starts storms; what is left of them when the test is over is killed."""
    storms: list[Storm] = []

    def start(*given: Any, **options: Any) -> Storm:
        storms.append(Storm(tmp_path, *given, **options))
        return storms[-1]

    yield start
    for started in storms:
        started.end()


def test_a_sound_toy_weathers_it(storm: Callable[..., Storm], tell: Tell) -> None:
    """Nothing is lost, nothing runs twice at once, and what is done stays done."""
    made = storm(Plain, {"subject": FAST, "mode": {"every": 0.05}})
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
def test_unsound_toys_are_caught(storm: Callable[..., Storm], toy: type[Plain], complaint: str) -> None:
    """A lost item, two runs at once and a run too many are told."""
    made = storm(toy, {"subject": FAST, "mode": {"every": 0.05, "takes": 0.02 if toy is Forgetting else 0.2}})
    made.rage(kills=8, seconds=5)
    made.calm(patience=1.0)
    report = made.report()
    assert any(complaint in wrong for wrong in report.wrong), report
