"""The fixtures and checks that all tests rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .helpers import BOUND, ROOT

ASK = "import signal, tests.conftest; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


@pytest.mark.process
def test_in_the_background() -> None:
    """Tests that run as a shell's background job, which ignores Ctrl-C, start programs that do not."""
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, ASK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_kinds(request: pytest.FixtureRequest) -> None:
    """Every test is of one kind."""
    for item in request.session.items:
        assert sum(kind in item.keywords for kind in ("unit", "process", "server")) == 1, item.nodeid
