"""Run the demo: ``gunicorn -c demo_app/gunicorn.conf.py`` from the folder above this one.

Nothing here is needed for the grace period. One worker, because an item is known only to its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

wsgi_app = "demo_app:create_app()"
bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = 1
threads = 8
timeout = 30
graceful_timeout = 90  # items have this long once the worker stops
keepalive = 0  # a browser would go on asking a worker that has stopped listening


def when_ready(server: Arbiter) -> None:
    """Say where to look."""
    for listener in server.LISTENERS:
        host, port = listener.sock.getsockname()[:2]
        url = f"http://{host}:{port}/"
        print(f"\n  The demo of Flask-Background: {url}  (Ctrl-C ends it)\n", flush=True)  # noqa: T201
