"""Flask-Background, with ``durable=True`` at level "power", which is the default."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Flask

from flask_background import Background

from ..rounds import OURS
from . import work
from .base import Place, Queue


class Ours(Queue):
    """The producers are threads in requests of a process that only enqueues; the consumers are two more."""

    name = OURS

    def __init__(self, place: Place, runs: bool = False) -> None:
        super().__init__(place)
        self._app = Flask("benchmarks")
        self._app.config.update(
            BACKGROUND_JOURNAL=place.folder / "background",
            BACKGROUND_DURABILITY="power",
            BACKGROUND_RUN_IN_WEB=runs,
        )
        self._background = Background(self._app)
        self._task = self._background.task(durable=True)(work.tell)

    @contextmanager
    def producer(self) -> Iterator[Callable[[str], Any]]:
        with self._app.test_request_context("/photos/1", method="POST"):
            yield self._task.enqueue

    def enqueue(self, argument: str) -> Any:
        with self.producer() as enqueue:
            return enqueue(argument)

    def consume(self) -> None:
        process = Ours(self.place, runs=True)
        process._app.test_client().get("/")  # from its first request on, a process looks for work
        signal.pause()

    def settle(self, items: Sequence[Any]) -> None:
        for item in items[-100:]:  # those before have ended, or each would be looked up while the clock runs
            assert item.wait(60)

    def close(self) -> None:
        self._background.stop(0)
