"""The peers: one task each, on a Redis database and a queue of its own, with one worker of one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import celery
from flask import Flask

from flask_background import Background

from ..rounds import OURS

_PATIENCE = 60.0


def nothing(_: str) -> None:
    """The function of every item here."""


class Peer(ABC):
    """One way to a Celery worker. Made anew in every process."""

    name: ClassVar[str]
    database: ClassVar[int]

    def __init__(self, redis_port: int) -> None:
        self.app = Flask("benchmarks")
        self._url = f"redis://127.0.0.1:{redis_port}/{self.database}"

    @property
    def celery(self) -> Any:
        """The Celery app, which the worker runs."""
        return self.app.extensions["celery"]

    @abstractmethod
    def enqueue(self, argument: str) -> Any:
        """Enqueue an item, as a view does."""

    @abstractmethod
    def settle(self, items: Sequence[Any]) -> None:
        """Wait until these have ended, and read their results."""

    def close(self) -> None:
        """Let go of the connections."""
        self.celery.close()


class Ours(Peer):
    """``BACKGROUND_BACKEND = "celery"``, and patience: a busy disk may hold Redis up for a second."""

    name = OURS
    database = 1

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        urls = {"broker_url": self._url, "result_backend": self._url}
        self.app.config.update(
            BACKGROUND_BACKEND="celery", BACKGROUND_CELERY=urls, BACKGROUND_PUBLISH_TIMEOUT=_PATIENCE
        )
        self._task = Background(self.app).task(name="nothing")(nothing)

    def enqueue(self, argument: str) -> Any:
        return self._task.enqueue(argument)

    def settle(self, items: Sequence[Any]) -> None:
        for item in items:
            item.result(_PATIENCE)


class Plain(Peer):
    """Celery in Flask, as Flask's documentation has it, and with Celery's defaults.

    A worker takes four messages at a time, and one that dies loses what it has.
    """

    name = "Celery"
    database = 2
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        app = self.app

        class FlaskTask(celery.Task):
            def __call__(self, *args: object, **kwargs: object) -> object:
                with app.app_context():
                    return self.run(*args, **kwargs)

        made = celery.Celery(app.name, task_cls=FlaskTask)
        made.conf.update(broker_url=self._url, result_backend=self._url, **self.settings)
        app.extensions["celery"] = made
        self._task = made.task(name="nothing")(nothing)

    def enqueue(self, argument: str) -> Any:
        return self._task.delay(argument)

    def settle(self, items: Sequence[Any]) -> None:
        for item in items:
            item.get(timeout=_PATIENCE)


class Late(Plain):
    """The same with settings that make it run the items of a dead worker again, as ours does by default."""

    name = "Celery, acks_late"
    database = 3
    settings: ClassVar[dict[str, Any]] = {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
    }


PEERS: tuple[type[Peer], ...] = (Ours, Plain, Late)
