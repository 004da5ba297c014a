"""Celery workers in processes of their own. All of it is ended with the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from ..helpers import BOUND, ROOT, until
from ..rabbitmq_server import RabbitMQ
from ..redis_server import Redis
from . import shop


class Broker(NamedTuple):
    """A broker, and the URLs of broker and result backend."""

    server: Redis | RabbitMQ
    urls: dict[str, str]


on_both = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)


@pytest.fixture(scope="module", params=["redis"])
def broker(request: pytest.FixtureRequest, redis: Redis) -> Broker:
    """Redis, which always keeps the results, or RabbitMQ. No message waits there."""
    redis.forget_all()
    server: Redis | RabbitMQ = redis
    urls = {"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}
    if request.param == "rabbitmq":
        server = request.getfixturevalue("rabbit")
        server.forget_all()
        urls["broker_url"] = server.url
    return Broker(server, urls)


@pytest.fixture
def nothing_queued(broker: Broker, redis: Redis) -> None:
    """Empty the servers, so that no worker gets an item of another test."""
    redis.forget_all()
    broker.server.forget_all()


# The ways to start a worker.
CELERY = ("celery", "-A", "tests.celery.celery_app", "worker")
FLASK = ("flask", "--app", "tests.celery.celery_app:flask_app", "background", "celery-worker")


class Worker:
    """A Celery worker with the shop's tasks, in a process group of its own."""

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        *options: str,
        flask: bool = False,
        celery: Any = None,
        cwd: Path = ROOT,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.log_file, self.note_file = folder / "log", folder / "notes"
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
        environment = {
            "SHOP_CELERY": json.dumps({**broker.urls, **(celery or {})}),
            "SHOP_NOTES": str(self.note_file),
            "PYTHONPATH": path,
        }
        start = FLASK if flask else CELERY
        settings = {"publish_timeout": BOUND, **settings}
        named = {f"FLASK_BACKGROUND_{name.upper()}": json.dumps(value) for name, value in settings.items()}
        always = ["--concurrency", "2", "--loglevel", "info"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *start, *always, *options],
                cwd=cwd,
                env={**os.environ, **environment, **named},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """The text of the worker's log so far."""
        return self.log_file.read_text()

    @property
    def notes(self) -> list[str]:
        """The lines that the worker's items have written down."""
        return self.note_file.read_text().splitlines() if self.note_file.exists() else []

    @property
    def children(self) -> set[int]:
        """The pids of the processes that run items."""
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def wait_until_ready(self) -> None:
        """Wait until the worker takes items."""
        until(lambda: " ready." in self.log or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log

    def wait_for_note(self, words: str, count: int = 1) -> str:
        """Wait until so many notes contain these words; returns the last one."""

        def look() -> list[str]:
            return [line for line in self.notes if words in line]

        until(lambda: len(look()) >= count, 30)
        return look()[-1]

    def let_go(self, name: str) -> None:
        """Let the item go on that holds under this name."""
        (self.folder / name).touch()

    def kill(self) -> None:
        """Kill the worker with its children."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(BOUND)


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker for the tests of a module."""
    worker = Worker(tmp_path_factory.mktemp("worker"), broker, kill_after=0.5)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.kill()


@pytest.fixture
def publish_timeout() -> float:
    """How long processes wait for Celery, in seconds: long enough for a busy machine."""
    return BOUND


@pytest.fixture
def make_worker(broker: Broker, tmp_path: Path, publish_timeout: float) -> Iterator[Callable[..., Worker]]:
    """Starts workers of a test's own; they have one folder."""
    started: list[Worker] = []

    def make(*options: str, **settings: Any) -> Worker:
        started.append(Worker(tmp_path, broker, *options, **{"publish_timeout": publish_timeout, **settings}))
        return started[-1]

    yield make
    for worker in started:
        worker.kill()


@pytest.fixture
def make_app(broker: Broker, publish_timeout: float) -> Callable[..., Flask]:
    """Makes apps that enqueue, each as another process would."""

    def make(celery: Any = None, **settings: Any) -> Flask:
        settings = {"publish_timeout": publish_timeout, **settings}
        named = {f"BACKGROUND_{name.upper()}": value for name, value in settings.items()}
        return shop.create_app(**{"BACKGROUND_CELERY": {**broker.urls, **(celery or {})}, **named})

    return make


@pytest.fixture
def redis_returns(redis: Redis) -> Iterator[None]:
    """Redis is empty, and in the end it is there again."""
    redis.forget_all()
    yield
    redis.stop()
    redis.start()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    """An app that enqueues, in its context."""
    app = make_app(kill_after=0.5)
    with app.app_context():
        yield app
