"""Views under a real gunicorn enqueue; a Celery worker that shares nothing with it but the broker runs it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..helpers import until
from ..integration.servers import Server, gunicorn
from .conftest import Broker, Worker


def through_all(server: Server, path: str, count: int = 2) -> dict[int, dict[str, Any]]:
    """The answer of each of gunicorn's workers, by the worker's pid."""
    seen: dict[int, dict[str, Any]] = {}

    def ask() -> bool:
        answer = server.try_get(path)
        if answer:
            seen[answer["pid"]] = answer
        return len(seen) >= count

    until(ask)
    return seen


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_views_and_a_worker_elsewhere(
    broker: Broker, tmp_path: Path, make_worker: Callable[..., Worker], worker_class: str
) -> None:
    """Both workers of gunicorn see an item that runs elsewhere, and so do those that follow a HUP.

    A view may wait for it, too.
    """
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    worker = make_worker(cwd=elsewhere, kill_after=0.5)
    with gunicorn(
        here,
        *("--workers", "2", "--worker-class", worker_class),
        env={"SHOP_CELERY": json.dumps(broker.urls), "SHOP_NOTES": str(here / "notes")},
        app="tests.celery.site:create_app()",
        kill_after=0.5,
    ) as server:
        assert not server.get("/pid")["instance"].startswith(str(elsewhere))
        item_id = server.get("/hold/photo")["id"]
        worker.wait_for_note("photo runs")
        path = f"/items/{item_id}"
        until(lambda: server.get(path)["progress"] == "halfway")
        before = through_all(server, path)
        for answer in before.values():
            assert (answer["status"], answer["progress"], answer["result"]) == ("running", "halfway", None)

        server.kill(signal.SIGHUP)
        for pid in before:
            server.wait_gone(pid)
        after = through_all(server, path)
        assert not before.keys() & after.keys()
        for answer in after.values():
            assert (answer["status"], answer["progress"]) == ("running", "halfway")

        worker.let_go("photo")
        until(lambda: server.get(path)["status"] == "succeeded")
        for answer in through_all(server, path).values():
            assert (answer["status"], answer["result"], answer["attempt"]) == ("succeeded", "photo", 1)
        assert len([note for note in worker.notes if "photo runs" in note]) == 1

        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(server.get, "/wait/answer")
            worker.wait_for_note("answer runs")
            worker.let_go("answer")
            assert waiting.result(60)["result"] == "answer"
        assert not (here / "notes").exists()
        assert "Traceback" not in server.log


def test_worker_of_gunicorn_is_killed_after_its_answer(
    broker: Broker, tmp_path: Path, make_worker: Callable[..., Worker]
) -> None:
    """An item runs although the process of its view is killed at once."""
    with gunicorn(
        tmp_path,
        *("--workers", "2"),
        env={"SHOP_CELERY": json.dumps(broker.urls), "SHOP_NOTES": str(tmp_path / "none")},
        app="tests.celery.site:create_app()",
    ) as server:
        answer = server.get("/hold/orphan")
        os.kill(answer["pid"], signal.SIGKILL)
        server.wait_gone(answer["pid"])
        worker = make_worker()
        worker.let_go("orphan")
        until(lambda: server.try_get(f"/items/{answer['id']}").get("result") == "orphan", 60)
