"""The clock of items."""

from __future__ import annotations

import time

import pytest

from flask_background.concurrency.clock import CLOCK, MovableClock


def test_system_time() -> None:
    """Times are the system's."""
    assert time.time() <= CLOCK.time() <= time.time()
    assert time.monotonic() <= CLOCK.monotonic() <= time.monotonic()


def test_moved() -> None:
    """A moved clock is ahead by as much, in both of its times, and goes on; it is never moved back."""
    clock = MovableClock()
    assert time.time() <= clock.time() <= time.time()
    clock.move_to(clock.time() + 100)
    clock.move_to(clock.time() - 1000)
    for moved, system in ((clock.time, time.time), (clock.monotonic, time.monotonic)):
        before = system()
        assert before + 99.9 < moved() < system() + 100.1


def test_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that freezes the time of the process freezes a movable clock, too."""
    clock = MovableClock()
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    assert clock.time() == 1_000.0
    clock.move_to(1_050.0)
    assert clock.time() == 1_050.0
