"""Servers that nobody asks anything: items that were left, and periodic tasks, run as soon as they serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ..helpers import BOUND, ROOT, free_port
from .servers import Server, eventually

BIN = Path(sys.prefix) / "bin"

# The app is complete some time after its Background, as apps are that have blueprints and other extensions.
SHOP = """
import os, socket, sys, time
from flask import Flask
from flask_background import Background
from tests.integration.recorder import write

if "uwsgi" in sys.modules:
    import uwsgi
    uwsgi.post_fork_hook = lambda: write("hook", "user's", worker=uwsgi.worker_id())

complete = False
app = Flask("shop")
app.config.from_prefixed_env()
background = Background(app)

@background.task(durable=True)
def left():
    write("ran", "left", complete=complete)

@background.periodic(seconds=0.2)
def tick():
    write("ran", "tick", complete=complete)

def listen():
    with socket.create_server(("127.0.0.1", 0)):
        print("listens", flush=True)
        time.sleep(1.5)

app.cli.command("listen")(listen)

@app.get("/")
def index():
    return ""

time.sleep(0.7)
complete = True
"""


class Host(NamedTuple):
    """A command that serves the shop."""

    command: Callable[[str], tuple[str, ...]]
    #: Whether it serves in children of its first process.
    forks: bool = False


def _uwsgi(*options: str) -> Callable[[str], tuple[str, ...]]:
    def command(port: str) -> tuple[str, ...]:
        arguments = ["--http-socket", f"127.0.0.1:{port}", "--module", "shop:app", "--need-app"]
        return sys.executable, "-c", f"import pyuwsgi; pyuwsgi.run({[*arguments, *options]!r})"

    return command


def _flask(*options: str) -> Callable[[str], tuple[str, ...]]:
    return lambda port: (f"{BIN}/flask", "--app", "shop", "run", "--port", port, *options)


HOSTS = {
    "flask run": Host(_flask()),
    "python -m flask": Host(lambda port: (sys.executable, "-m", "flask", *_flask()(port)[1:])),
    "flask run --debug": Host(_flask("--debug"), forks=True),
    "waitress": Host(lambda port: (f"{BIN}/waitress-serve", "--listen", f"127.0.0.1:{port}", "shop:app")),
    "uvicorn": Host(lambda port: (f"{BIN}/uvicorn", "--port", port, "asgi:app")),
    "uvicorn --workers": Host(
        lambda port: (f"{BIN}/uvicorn", "--port", port, "--workers", "2", "asgi:app"), forks=True
    ),
    "granian": Host(
        lambda port: (f"{BIN}/granian", "--interface", "wsgi", "--port", port, "shop:app"), forks=True
    ),
    "uwsgi": Host(_uwsgi()),
    "uwsgi --master": Host(_uwsgi("--master", "--processes", "2", "--mule", "--no-orphans"), forks=True),
    "uwsgi --lazy-apps": Host(
        _uwsgi("--master", "--processes", "2", "--lazy-apps", "--no-orphans"), forks=True
    ),
}


class Street:
    """A folder with a shop and its journal, and processes of the shop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            "FIRST_ON_PATH": str(folder),
            "FLASK_BACKGROUND_JOURNAL": json.dumps(str(folder / "journal")),
            "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
            "RECORD": str(folder / "record"),
        }

    def run(self, *command: str, stdin: str = "", **env: str) -> str:
        """Run a command of the shop to its end, and return its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=BOUND,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def statuses(self) -> list[str]:
        """The statuses of the items in the journal, as another command tells them."""
        items = json.loads(self.run(f"{BIN}/flask", "--app", "shop", "background", "list", "--json"))["items"]
        return [item["status"] for item in items]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an earlier process of the shop left it: with an item that no process has run."""
    folder = tmp_path_factory.mktemp("left")
    (folder / "shop.py").write_text(SHOP)
    (folder / "asgi.py").write_text(
        "from a2wsgi import WSGIMiddleware\nimport shop\napp = WSGIMiddleware(shop.app)\n"
    )
    leave = "import shop\nwith shop.app.app_context(): shop.left.enqueue()"
    Street(folder).run(sys.executable, "-c", leave, FLASK_BACKGROUND_RUN_IN_WEB="false")
    return folder


@pytest.fixture
def street(left: Path, tmp_path: Path) -> Street:
    """A shop, and an item that was left."""
    return Street(shutil.copytree(left, tmp_path / "street", ignore=shutil.ignore_patterns("*.bell")))


@pytest.fixture
def start(street: Street) -> Iterator[Callable[..., Server]]:
    """Starts a server of the shop."""
    servers: list[Server] = []

    def start(*command: str) -> Server:
        servers.append(Server(command, street.folder, street.env))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", HOSTS)
def test_no_request_is_needed(name: str, start: Callable[..., Server]) -> None:
    """A server's process runs what was left, once the app is complete; its parent runs nothing."""
    host = HOSTS[name]
    server = start(*host.command(str(free_port())))
    for task in ("left", "tick"):
        server.wait_for("ran", task)
    runs = server.events("ran")
    assert len(server.events("ran", "left")) == 1
    assert all(run["complete"] for run in runs), runs
    pids = {run["pid"] for run in runs}
    if host.forks:
        assert server.process.pid not in pids
        opened = [os.path.realpath(path) for path in Path(f"/proc/{server.process.pid}/fd").iterdir()]
        assert not [path for path in opened if "journal" in path]
    else:
        assert pids == {server.process.pid}
    assert "GET" not in server.log
    if name.startswith("uwsgi"):
        assert server.events("hook") or "--lazy-apps" in name, "the app's own hook is called, too"


COMMANDS = {
    "flask routes": ((f"{BIN}/flask", "--app", "shop", "routes"), ""),
    "flask shell": ((f"{BIN}/flask", "--app", "shop", "shell"), "import time; time.sleep(1)"),
    "a command that listens": ((f"{BIN}/flask", "--app", "shop", "listen"), ""),
    "a script that listens": ((sys.executable, "-c", "import shop; shop.listen()"), ""),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_run_nothing(name: str, street: Street) -> None:
    """A process that is no web server's leaves all items to others."""
    command, stdin = COMMANDS[name]
    street.run(*command, stdin=stdin)
    assert street.statuses() == ["queued"]


def test_script(start: Callable[..., Server], street: Street) -> None:
    """A script that serves the app itself says so."""
    (street.folder / "serve.py").write_text(
        "import shop, waitress\n"
        "shop.background.start()\n"
        f"waitress.serve(shop.app, listen='127.0.0.1:{free_port()}')\n"
    )
    server = start(sys.executable, str(street.folder / "serve.py"))
    for task in ("left", "tick"):
        server.wait_for("ran", task)


def test_idle_app_has_no_threads(start: Callable[..., Server], street: Street) -> None:
    """An app that has nothing to run is left with the server's own threads."""
    (street.folder / "idle.py").write_text(
        "from flask import Flask\nfrom flask_background import Background\n"
        "app = Flask('idle')\nbackground = Background(app)\n"
    )
    server = start(f"{BIN}/flask", "--app", "idle", "run", "--port", "0")
    server.wait_for_log("Running on")
    tasks = Path(f"/proc/{server.process.pid}/task")
    eventually("no thread of ours is left", lambda: len(list(tasks.iterdir())) == 1)
