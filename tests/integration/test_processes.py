"""Processes of their own: ``flask run`` and waitress, ended by TERM and by Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ..helpers import slack
from .servers import Server, eventually, python

WAITRESS = """
from waitress import create_server
from tests.integration.recorder import create_app
server = create_server(create_app(), host="127.0.0.1", port=0, threads=4)
print(f"Serving on http://127.0.0.1:{server.effective_port}")
server.run()
"""
HOSTS = {
    "flask run": ("-m", "flask", "--app", "tests.integration.recorder:create_app", "run", "--port", "0"),
    "waitress": ("-c", WAITRESS),
}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
@pytest.mark.parametrize("host", HOSTS)
def test_items_survive(host: str, signum: signal.Signals, tmp_path: Path) -> None:
    """Items end well although the process was told to stop; it ends when they have."""
    with python(tmp_path, *HOSTS[host], grace_period=10) as server:
        server.get("/start?kind=sync&kind=coroutine&seconds=2")
        for kind in ("sync", "coroutine"):
            server.wait_for("started", kind)
        server.kill(signum)
        gone = server.wait_gone()
        for kind in ("sync", "coroutine"):
            assert server.events("token", kind)[0]["reason"] == "shutdown"
            assert server.events("finished", kind)[-1]["status"] == "succeeded"
        assert gone - server.events("finished")[-1]["at"] < 6  # waitress waits 5 s for its own threads
        if signum == signal.SIGTERM:
            assert server.process.returncode == 128 + signal.SIGTERM or _is_tidy(server)


def _is_tidy(server: Server) -> bool:
    """waitress takes SystemExit for a wish to end, and ends well."""
    return server.process.returncode == 0


@pytest.mark.parametrize("host", HOSTS)
def test_second_interrupt_ends_the_wait(host: str, tmp_path: Path) -> None:
    """Ctrl-C again names what is left behind, and ends the process."""
    with python(tmp_path, *HOSTS[host], grace_period=30) as server:
        server.get("/start?kind=sync&kind=coroutine&seconds=30")
        for kind in ("sync", "coroutine"):
            server.wait_for("started", kind)
        server.kill(signal.SIGINT)
        server.wait_for_log("Stopping: waiting up to 30 s for 2 items")
        again_at = server.kill(signal.SIGINT)
        assert server.wait_gone() - again_at < 2 + slack()
        for kind in ("sync", "coroutine"):
            assert server.events("finished", kind)[-1]["status"] == "interrupted"


@pytest.mark.parametrize("host", HOSTS)
def test_idle_process_dies_of_term_as_ever(host: str, tmp_path: Path) -> None:
    """Without items TERM does what it does without us."""
    with python(tmp_path, *HOSTS[host]) as server:
        server.get("/start?kind=sync&seconds=0.1")
        server.wait_for("finished", "sync")
        eventually("nothing in flight", lambda: server.get("/stats")["running"] == 0)
        server.kill(signal.SIGTERM)
        server.wait_gone()
        assert server.process.returncode == -signal.SIGTERM
