"""The fixtures and checks that all tests rely on."""

from __future__ import annotations

import signal
import subprocess
import sys

import execnet
import pytest

from .helpers import BOUND, ROOT

ASK = "import signal, tests.conftest; print(*map(signal.getsignal, (signal.SIGINT, signal.SIGHUP)))"


@pytest.mark.process
def test_in_the_background() -> None:
    """Tests under nohup, in a shell's background job, start programs that heed Ctrl-C and HUP."""
    done = subprocess.run(
        ["sh", "-c", 'nohup "$0" -c "$1" & wait', sys.executable, ASK],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stdout == f"{signal.default_int_handler} {signal.SIG_DFL}\n", done.stderr


def test_kinds(request: pytest.FixtureRequest) -> None:
    """Every test is of one kind."""
    for item in request.session.items:
        assert sum(kind in item.keywords for kind in ("unit", "process", "server")) == 1, item.nodeid


def test_reports_with_lone_surrogates(request: pytest.FixtureRequest) -> None:
    """What a test logs reaches the process that collects the reports, whatever text it is."""
    report = pytest.TestReport("test", ("test", 1, "test"), {}, "failed", "\udcff == '\ud800'", "call")
    report.sections.append(("Captured log call", "no \ud800"))
    report.user_properties.append(("\ud800", 1))
    data = request.config.hook.pytest_report_to_serializable(config=request.config, report=report)
    sent = execnet.loads(execnet.dumps(data))
    assert sent["longrepr"] == "\\udcff == '\\ud800'"
    assert sent["sections"] == [("Captured log call", "no \\ud800")]
