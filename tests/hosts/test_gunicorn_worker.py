"""The names in gunicorn that this package relies on, each in the newest version and in the oldest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from flask_background.hosts import gunicorn_worker

pytestmark = pytest.mark.process


def make_worker(kind: type[Worker] = ThreadWorker) -> Worker:
    """A worker as its master makes it."""
    return kind(0, os.getppid(), [], None, 30, Config(), None)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker with threads."""
    worker = make_worker()
    yield worker
    worker.tmp.close()


@pytest.mark.parametrize("entry", gunicorn_worker.RELIED_ON)
def test_is_there(entry: str, worker: Worker) -> None:
    """This version has what the table names."""
    owner, name = entry.split(".")
    assert hasattr({"worker": worker, "arbiter": Arbiter}[owner], name)


@pytest.mark.parametrize("kind", [SyncWorker, ThreadWorker, GeventWorker])
def test_nothing_is_missing(kind: type[Worker]) -> None:
    """No kind of worker lacks an entry."""
    worker = make_worker(kind)
    assert gunicorn_worker.missing(worker) == []
    worker.tmp.close()


def test_missing_by_name(worker: Worker) -> None:
    """An entry that a version lacks is named."""
    del worker.alive
    assert gunicorn_worker.missing(worker) == ["worker.alive"]


def test_worker_is_a_variable() -> None:
    """The function that forks has the worker in a variable of that name."""
    assert "worker" in Arbiter.spawn_worker.__code__.co_varnames


def test_gthread_keeps_connections(worker: Any) -> None:
    """gthread keeps idle connections, and finished requests, where they are looked for."""
    assert any(hasattr(worker, name) for name in gunicorn_worker.GTHREAD_IDLE)
    finished = getattr(worker, gunicorn_worker.GTHREAD_FINISHED)
    finished.init()
    assert gunicorn_worker.file_of(finished) is not None
    finished.run_callbacks(None)
    finished.close()


def test_heartbeat(worker: Worker) -> None:
    """The master sees a beat, also of a file that the worker has closed."""
    heart = gunicorn_worker.Heartbeat(worker)
    seen = os.dup(worker.tmp.fileno())
    os.utime(seen, (0, 0))
    heart.beat()
    assert abs(worker.tmp.last_update() - time.monotonic()) < 5
    worker.tmp.close()
    os.utime(seen, (0, 0))
    heart.beat()
    assert abs(os.fstat(seen).st_mtime - time.monotonic()) < 5
    os.close(seen)


def test_heartbeat_of_a_closed_file(worker: Worker) -> None:
    """A worker that is about to exit is let go."""
    worker.tmp.close()
    gunicorn_worker.Heartbeat(worker).beat()
