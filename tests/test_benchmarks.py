"""The benchmarks run; what they measure is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_table_comes_out() -> None:
    """A quick run prints every measure beside its peers."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    for measure in ("enqueue", "end to end", "queued item", "import", "ThreadPoolExecutor", "Flask-Executor"):
        assert measure in run.stdout
