"""The size of the fault tests: a few cases in every run of the tests, all in ``make faults``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..helpers import FULL
from .storm import Storm


class Size(NamedTuple):
    """The number of cases."""

    #: Items of a recorded run, and mixed states of each of its moments.
    items: int
    mixes: int
    #: At most so many of the places where a child could be killed, and of the states to recover from.
    places: int
    #: A storm's kills, or the seconds after which there are no more.
    kills: int
    seconds: float


#: Puts a report at the end of what ``make faults`` prints.
Tell = Callable[[object], None]

#: Starts processes that are going to be killed, as `Storm` does in the test's folder.
StartStorm = Callable[..., Storm]

# How long a test may take, in seconds.
TIMEOUT = 3_600 if FULL else 120


@pytest.fixture(scope="session")
def size() -> Size:
    """Small, or with FAULTS=full in the environment, full."""
    if FULL:
        return Size(items=40, mixes=12, places=1_000, kills=10_000, seconds=1_800)
    return Size(items=3, mixes=1, places=8, kills=40, seconds=6)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Tells what was found."""
    return lambda report: record_property("faults", str(report))


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[StartStorm]:
    """Starts storms; what is left of them when the test is over is killed."""
    storms: list[Storm] = []

    def start(*given: Any, **options: Any) -> Storm:
        storms.append(Storm(tmp_path, *given, **options))
        return storms[-1]

    yield start
    for started in storms:
        started.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reports."""
    for outcome in ("passed", "failed") if FULL else ():
        for report in terminalreporter.getreports(outcome):
            for name, text in report.user_properties:
                if name == "faults":
                    terminalreporter.write_line(f"{report.nodeid}: {text}")
