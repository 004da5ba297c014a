"""Items in child processes under a real gunicorn, whatever happens to its workers."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from .servers import Server, alive, eventually, gunicorn

CPU = {"cpu": {"kind": "process", "workers": 2}}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Two children for each worker, and a journal of the test's own."""
    return {"executors": CPU, "grace_period": 8, "journal": str(tmp_path / "journal")}


def start(server: Server, kind: str, seconds: float) -> tuple[int, int]:
    """Start an item; the worker that has it, and its child."""
    worker = server.get(f"/start?kind={kind}&seconds={seconds}")["pid"]
    return worker, server.wait_for("started", kind)["pid"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_item_in_flight(
    worker_class: str, preload: bool, signum: signal.Signals, settings: dict[str, Any], tmp_path: Path
) -> None:
    """An item sees the stop in its child process, and ends well within the grace period; no child is left."""
    options = ["-k", worker_class, "--graceful-timeout", "9", *["--preload"][: int(preload)]]
    with gunicorn(tmp_path, *options, **settings) as server:
        worker, child = start(server, "child", 2)
        assert child != worker
        server.kill(signum)
        server.wait_gone(worker)
        (token,) = server.events("token", "child")
        assert (token["pid"], token["reason"]) == (child, "shutdown")
        assert 0 < token["remaining"] <= 8
        assert [event["pid"] for event in server.events("done", "child")] == [child]
        assert server.events("finished", "child")[-1]["status"] == "succeeded"
        eventually("the child is gone", lambda: not alive(child), 2.0)


def test_item_outlives_the_grace_period(worker_class: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    """An item that does not end is named in the log with its line, and killed with its worker."""
    settings["grace_period"] = 1
    with gunicorn(tmp_path, "-k", worker_class, **settings) as server:
        _, child = start(server, "child", 60)
        at = server.kill(signal.SIGTERM)
        assert server.wait_gone() - at < 5
        assert server.events("finished", "child")[-1]["status"] == "interrupted"
        assert "interrupted" in server.log
        found = server.wait_for_log(
            r"its child process (\d+) is killed, the grace period is over. It was here:"
        )
        assert int(found[1]) == child
        assert re.search(r'recorder\.py", line \d+ in child$', server.log, re.MULTILINE)
        eventually("the child is gone", lambda: not alive(child), 2.0)


def test_log_that_gunicorn_configures(worker_class: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A handler that the worker has from gunicorn's configuration gets what an item logs in a child, once."""
    conf = tmp_path / "conf.py"
    conf.write_text(
        "import logging\n"
        "def post_worker_init(worker):\n"
        "    handler = logging.StreamHandler()\n"
        "    handler.setFormatter(logging.Formatter('configured: %(process)d %(name)s %(message)s'))\n"
        "    logging.getLogger().addHandler(handler)\n"
    )
    with gunicorn(tmp_path, "-c", str(conf), "-k", worker_class, **settings) as server:
        _, child = start(server, "child", 0.1)
        server.wait_for_log(rf"configured: {child} recorder\.items child has started")
        server.wait_for("finished", "child")
        assert server.log.count("child has started") == 1


def test_worker_is_killed(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Nothing is left of a worker that is killed, and its durable item runs in its successor's child."""
    with gunicorn(tmp_path, "-k", "gthread", **settings) as server:
        worker, child = start(server, "child", 60)
        server.get("/start?kind=durable_child&seconds=1")
        first = server.wait_for("started", "durable_child")["pid"]
        assert first not in {worker, child}
        server.kill(signal.SIGKILL, worker)
        eventually("both children are gone", lambda: not alive(child) and not alive(first), 2.0)
        done = server.wait_for("done", "durable_child", within=30)
        assert done["pid"] not in {worker, child, first}


def test_durable_item_in_flight(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A durable item that the grace period does not suffice for runs again after the reload."""
    settings["grace_period"] = 1
    with gunicorn(tmp_path, "-k", "gthread", "--graceful-timeout", "3", **settings) as server:
        worker, child = start(server, "durable_child", 3)
        server.kill(signal.SIGHUP)
        server.wait_gone(worker)
        again = eventually("it runs again", lambda: server.events("started", "durable_child")[1:], 20)
        assert again[0]["pid"] != child
        server.wait_for("done", "durable_child", within=20)
    assert len(server.events("done", "durable_child")) == 1


def test_interrupt_of_the_terminal(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Ctrl-C reaches the workers, and not the children: their items have the grace period."""
    with gunicorn(tmp_path, "-k", "gthread", **settings) as server:
        _, child = start(server, "child", 2)
        server.kill_group(signal.SIGINT)
        server.wait_gone()
        assert server.events("finished", "child")[-1]["status"] == "succeeded"
        assert server.events("done", "child")[0]["pid"] == child
