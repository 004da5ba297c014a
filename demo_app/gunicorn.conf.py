"""Run the demo: ``gunicorn -c demo_app/gunicorn.conf.py`` from the folder above this one.

Nothing here is needed for the grace period, or for durable items.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

HERE = Path(__file__).resolve().parent

wsgi_app = "demo_app:create_app()"
bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = 2  # so that one can be killed, and the other runs its durable items
threads = 8
timeout = 30
graceful_timeout = 90  # items have this long once the worker stops
keepalive = 0  # a browser would go on asking a worker that has stopped listening


def on_starting(server: Arbiter) -> None:
    """Start the demo's own mail server, one for all workers, unless letters go elsewhere."""
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
