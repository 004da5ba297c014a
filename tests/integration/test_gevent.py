"""Items in a real gunicorn worker of gevent's: whatever works in its views works in them."""

from __future__ import annotations

import threading
from pathlib import Path

from .servers import gunicorn

APP = "tests.integration.gevent_shop:create_app()"
TASKS = ("sell", "write", "query", "convert", "to_thread", "connect", "execute")


def test_items_share_what_views_have(gunicorn_env: dict[str, str], tmp_path: Path) -> None:
    """Items and views share locks, logs and the only connection; items run programs and await: all end."""
    with gunicorn(tmp_path, "-k", "gevent", env=gunicorn_env, app=APP) as server:
        count = 8  # of each: 56 items
        tasks = "&".join(f"task={task}" for task in TASKS)
        assert server.get(f"/enqueue?count={count}&{tasks}") == {"count": count * len(TASKS)}
        views = [threading.Thread(target=server.get, args=("/view",)) for _ in range(5)]
        for view in views:
            view.start()
        assert server.get("/wait", within=60) == {"count": count * len(TASKS), "bad": []}
        for view in views:
            view.join(20)
        assert server.get("/pid")


def test_multiprocessing(tmp_path: Path) -> None:
    """An item starts processes by fork and by spawn."""
    with gunicorn(tmp_path, "-k", "gevent", app=APP) as server:
        server.get("/enqueue?count=1&task=compute")
        assert server.get("/wait", within=60) == {"count": 1, "bad": []}


def test_events_arrive_at_once(tmp_path: Path) -> None:
    """A greenlet that waits for an event is woken as soon as an item sets it, not up to a second later."""
    with gunicorn(tmp_path, "-k", "gevent", app=APP) as server:
        assert min(server.get("/emit")["late"] for _ in range(5)) < 0.05
