"""The benchmarks run; what they measure is not tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server


@pytest.mark.timeout(240)
def test_table_comes_out() -> None:
    """A quick run prints every measure beside its peers."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=220,
        check=True,
    )
    measures = ("enqueue", "end to end", "queued item", "import", "durable enqueue", "durable, end to end")
    for measure in (
        *measures,
        "for Celery",
        "acks_late",
        "kill -9",
        "ThreadPoolExecutor",
        "Flask-Executor",
        "Celery",
        "Huey",
        "RQ",
    ):
        assert measure in run.stdout


@pytest.mark.timeout(240)
def test_short_soak() -> None:
    """In a few seconds of load no item is lost."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.1"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=220,
    )
    for kind in ("memory", "coroutine", "durable", "child"):
        assert re.search(rf"^{kind}: [\d,]+ acknowledged .*; 0 lost;", run.stdout, re.MULTILINE), run.stdout
    assert run.returncode == 0 or "GROWS" in run.stdout, run.stdout + run.stderr  # it has just started
