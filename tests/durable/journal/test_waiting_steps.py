"""The steps that wait: their order, and how long the thread waits for more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from flask_background.concurrency import native
from flask_background.durable.journal import waiting_steps
from flask_background.durable.journal.group_commit import Write
from flask_background.durable.journal.waiting_steps import WaitingSteps

from ...helpers import BOUND


@pytest.fixture
def steps() -> WaitingSteps:
    """No step waits, and the file stays open."""
    steps = WaitingSteps()
    steps.hurries = False
    return steps


def write(*, awaited: bool = False) -> Write:
    """A step, for which perhaps a caller waits."""
    made = Write(lambda db: None, True)
    if awaited:
        made.latch = native.Latch()
    return made


def took(call: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_order(steps: WaitingSteps) -> None:
    """Steps are taken in their order; those put back come first, and a withdrawn one not at all."""
    first, second, third = write(), write(), write()
    for step in (first, second, third):
        steps.put(step)
    assert steps.withdraw(second)
    assert not steps.withdraw(second)
    assert steps.take() == [first, third]
    assert steps.take() == []
    steps.put(second)
    steps.put_back([first, third])
    assert len(steps) == 3
    assert steps.take() == [first, third, second]


def test_bounded(steps: WaitingSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction takes a bounded number of steps."""
    monkeypatch.setattr(waiting_steps, "_MOST", 3)
    for _ in range(5):
        steps.put(write())
    assert [len(steps.take()), len(steps.take()), len(steps.take())] == [3, 2, 0]


def test_step_wakes_the_thread(steps: WaitingSteps) -> None:
    """The thread waits without limit until there is a step."""
    timer = threading.Timer(0.05, steps.put, [write(awaited=True)])
    timer.start()
    assert took(steps.gather) < BOUND / 2
    timer.join()
    assert len(steps) == 1


def test_thread_that_hurries(steps: WaitingSteps) -> None:
    """The thread does not wait for steps while the file is to be closed."""
    steps.hurries = True
    assert took(steps.gather) < BOUND / 2
    assert len(steps) == 0


def test_company(steps: WaitingSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that no caller waits for are held back for a while, until a caller comes."""
    monkeypatch.setattr(waiting_steps, "_COMPANY", 0.2)
    steps.put(write())
    steps.wait(0)  # the thread has noticed that step
    assert took(steps.gather) >= 0.2
    monkeypatch.setattr(waiting_steps, "_COMPANY", BOUND)
    timer = threading.Timer(0.05, steps.put, [write(awaited=True)])
    timer.start()
    assert took(steps.gather) < BOUND / 2
    timer.join()


def test_expected_callers(steps: WaitingSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits for as many callers as waited for the last transaction, and not for more."""
    monkeypatch.setattr(waiting_steps, "_LINGER", BOUND)
    steps.expected = 2
    steps.put(write(awaited=True))
    timer = threading.Timer(0.05, steps.put, [write(awaited=True)])
    timer.start()
    assert took(steps.gather) < BOUND / 2
    timer.join()
    assert len(steps) == 2
