"""A real uWSGI: items run and are waited for, and its child processes have the right interpreter."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from ..helpers import BOUND, Script, free_port, until
from ..integration.servers import alive

pytestmark = pytest.mark.server

APP = """
import os, time
from flask import Flask
from flask_background import Background, current_item
app = Flask("shop")
app.config.update(
    BACKGROUND_EXECUTORS={"cpu": {"kind": "process", "workers": 1}},
    BACKGROUND_APP="shop:app",
)
background = Background(app)

@background.task
def work(seconds):
    print("item started", flush=True)
    current_item.token.wait(seconds)
    print("item told", current_item.token.reason, flush=True)
    time.sleep(0.5)
    print("item done", flush=True)

@background.task(executor="cpu")
def look():
    import sys
    return os.getpid(), sys.prefix

@app.get("/")
def index():
    return {"pid": os.getpid()}

@app.get("/work")
def begin():
    return {"id": work.enqueue(30).id}

@app.get("/look")
def ask():
    pid, prefix = look.enqueue().result(20)
    return {"child": pid, "prefix": prefix, "pid": os.getpid()}
"""

# uWSGI has the interpreter built in: this is its own program, started by this interpreter.
START = "import pyuwsgi; pyuwsgi.run({arguments!r})"


class Uwsgi:
    """A running uWSGI with one worker."""

    def __init__(self, program: Script, port: int) -> None:
        self.program = program
        self._port = port

    def get(self, path: str) -> dict[str, object]:
        """Ask the app."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=BOUND) as answer:
            body: dict[str, object] = json.load(answer)
        return body

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.get("/"))
        except OSError:
            return False


@pytest.fixture
def start(script: Callable[..., Script], tmp_path: Path) -> Callable[..., Uwsgi]:
    """Starts a uWSGI with these options."""

    def start(*options: str) -> Uwsgi:
        port = free_port()
        (tmp_path / "shop.py").write_text(APP)
        arguments = [
            "--http-socket",
            f"127.0.0.1:{port}",
            "--module",
            "shop:app",
            "--pythonpath",
            str(tmp_path),
        ]
        arguments += ["--master", "--no-orphans", "--die-on-term", "--need-app", *options]
        server = Uwsgi(script(START.format(arguments=arguments)), port)
        until(server.is_up)
        return server

    return start


@pytest.mark.parametrize(
    "options", [("--enable-threads", "--threads", "2"), ()], ids=["threads", "one thread"]
)
def test_term(start: Callable[..., Uwsgi], options: tuple[str, ...]) -> None:
    """An item in flight is told at TERM, and waited for; newer versions need no option for that."""
    server = start(*options)
    server.get("/work")
    server.program.wait_for("item started")
    server.program.wait_for("GET /work")  # the request is over: in the midst of one TERM lets no hook run
    server.program.send(signal.SIGTERM)
    server.program.ends()
    said = server.program.said
    assert said.index("item told") < said.index("item done") < said.index("Stopped: all items done")
    assert "enable-threads = true" not in said


def test_child_processes(start: Callable[..., Uwsgi]) -> None:
    """A child has the interpreter of the server's environment, and ends with its worker."""
    server = start("--enable-threads", "--threads", "2")
    answer = server.get("/look")
    assert answer["prefix"] == sys.prefix
    assert answer["child"] != answer["pid"]
    server.program.send(signal.SIGTERM)
    server.program.ends()
    until(lambda: not alive(int(str(answer["child"]))))
