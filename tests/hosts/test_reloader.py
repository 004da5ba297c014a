"""A plain process whose time is short: under a reloader, under a host with a limit, under uWSGI."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..helpers import BOUND, ROOT, Script, free_port, slack, until

APP = """
import os, time
from flask import Flask
from flask_background import Background
app = Flask(__name__)
background = Background(app)
@background.task
def work(): time.sleep(25)
@app.get("/")
def start(): return f"{os.getpid()} {work.enqueue().id}"
"""


def test_reloader_does_not_wait_for_items(tmp_path: Path) -> None:
    """A change of the code is served soon, whatever runs, and the log says how long items have."""
    (tmp_path / "shop.py").write_text(APP)
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "shop", "run", "--debug", "--port", str(port)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def get() -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return str(answer.read().split()[0])
        return ""

    try:
        first = until(get)
        (tmp_path / "shop.py").write_text(APP + "# changed\n")
        began = time.monotonic()
        until(lambda: get() not in ("", first))
        assert time.monotonic() - began < 15
        said = log.read_text()
        assert re.search(
            r"Stopping: waiting up to 2 s for \d+ items?; the reloader may end this process", said
        )
        stopped = r"Stopped after \d\.\d s: (\d+ items? handed over, 0|0 items) run again, \d+ lost"
        assert re.search(stopped, said)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(BOUND)


LIMITED = """
import time
from flask import Flask
from flask_background import Background, current_item
app = Flask("shop")
app.config["BACKGROUND_HOST_LIMIT"] = 3
background = Background(app)
@background.task
def work():
    current_item.token.wait(60)
    print("remaining", current_item.token.remaining, flush=True)
    time.sleep(60)
with app.app_context():
    work.enqueue()
    time.sleep(0.2)
print("ends", flush=True)
"""


def test_limit_of_a_host_that_cannot_be_asked(script: Callable[..., Script]) -> None:
    """Items know how long they have, and are on record a second before the host's limit."""
    program = script(LIMITED)
    program.wait_for("remaining ")
    began = time.monotonic()
    assert 1 < float(program.said.partition("remaining ")[2].split()[0]) <= 2
    program.wait_for(" interrupted, ")
    assert time.monotonic() - began < 3 + slack()
    program.kill()


def test_uwsgi_without_threads(
    make_site: Callable[..., object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would run between requests, and the log says so with the cure."""
    from flask_background.hosts.process import ProcessHost

    for has_threads in (1, 0):
        monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=has_threads))
        site = make_site()
        with site.app.app_context():  # type: ignore[attr-defined]
            from flask_background.app_state import state_of

            ProcessHost().add(state_of(site.app).backend.shutdown)  # type: ignore[attr-defined]
        assert ("enable-threads = true" in caplog.text) is (has_threads == 0)
