"""Runs pytest in a process that gevent has patched, for what cannot be patched in the tests' own.

Files named ``patched_*.py`` are tests that need such a process. pytest does not collect them by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pass_under_gevent(*arguments: str, **patches: bool) -> None:
    """Fail unless pytest passes with these arguments; patches are those of ``monkey.patch_all``."""
    options = [f"{name}={value}" for name, value in patches.items()]
    # As a file, and without its folder in the path: pytest wants to import the package tests by itself.
    command = [sys.executable, "-P", __file__, *options, "--", *arguments]
    run = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=ROOT,
        # Plugins of hypothesis are imported in the patched process, and trio's may run a program: with
        # ``subprocess=False`` gevent leaves that waiting for ever.
        env=os.environ | {"HYPOTHESIS_NO_PLUGINS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout


if __name__ == "__main__":
    from gevent import monkey

    end = sys.argv.index("--")
    wanted = (argument.partition("=") for argument in sys.argv[1:end])
    monkey.patch_all(**{name: value == "True" for name, _, value in wanted})

    import pytest

    sys.exit(pytest.main(sys.argv[end + 1 :]))
