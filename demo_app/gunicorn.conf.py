"""Run the demo: ``gunicorn -c demo_app/gunicorn.conf.py`` from the folder above this one.

Nothing here is needed for the grace period, or for durable items.
"""

from __future__ import annotations

import os
import runpy
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

HERE = Path(__file__).resolve().parent

wsgi_app = "demo_app:create_app()"
port = int(os.environ.get("PORT", "8000"))
bind = f"127.0.0.1:{port}"
workers = 2  # so that one can be killed, and the other runs its durable items
threads = 8
timeout = 30
graceful_timeout = 90  # items have this long once the worker stops
keepalive = 0  # a browser would go on asking a worker that has stopped listening


def refuse_taken_port() -> None:
    """Say in one sentence what to do when the port is taken: gunicorn would try five times, and log each."""
    if "GUNICORN_FD" in os.environ:
        return  # this gunicorn has its sockets from the one that it replaces
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(
                f"Port {port} cannot be used ({error.strerror}). Choose another: make demo PORT={port + 1}"
            )


def on_starting(server: Arbiter) -> None:
    """Start the demo's own mail server, one for all workers, unless letters go elsewhere."""
    refuse_taken_port()
    if not os.environ.get("MAIL_SERVER"):
        start = runpy.run_path(str(HERE / "mailserver.py"))["start"]
        instance = Path(os.environ.get("DEMO_INSTANCE", HERE.parent / "instance"))
        os.environ["DEMO_MAIL_PORT"] = str(start(instance / "outbox"))


def when_ready(server: Arbiter) -> None:
    """Say where to look."""
    for listener in server.LISTENERS:
        host, port = listener.sock.getsockname()[:2]
        url = f"http://{host}:{port}/"
        print(f"\n  The demo of Flask-Background: {url}  (Ctrl-C ends it)\n", flush=True)  # noqa: T201
