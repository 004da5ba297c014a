"""What an item costs in a child process, beside ``concurrent.futures.ProcessPoolExecutor``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from time import perf_counter

from flask import Flask

from flask_background import Background, Task

from .rounds import OURS, interleaved, row
from .table import Goal, Row


@dataclass(frozen=True)
class Size:
    """How many rounds, and how many items each of them has when the child is warm."""

    rounds: int
    items: int


FULL = Size(rounds=7, items=1_000)
QUICK = Size(rounds=2, items=20)

_SPAWN = "ProcessPoolExecutor, spawn"
_GOALS = {_SPAWN: Goal(1.5)}


def create_app() -> Flask:
    """The app that a child loads."""
    app = Flask(__name__)
    app.config["BACKGROUND_EXECUTORS"] = {"cpu": {"kind": "process", "workers": 1}}
    Background(app).task(executor="cpu", name="nothing")(_nothing)
    return app


def _nothing(argument: str) -> str:
    return argument


class Children(ABC):
    """One child process, started when it is first called."""

    name: str

    @abstractmethod
    def call(self) -> str:
        """Have a function called there, and return what it returns."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Ours(Children):
    """Flask-Background."""

    name = OURS

    def __init__(self) -> None:
        self._app = create_app()
        self._background = self._app.extensions["background"]
        self._task: Task[..., str] = Task(self._background, self._background._registry.tasks["nothing"])

    def call(self) -> str:
        with self._app.app_context():
            result: str = self._task.enqueue("x").result(60.0)
        return result

    def close(self) -> None:
        self._background.stop()


class Pool(Children):
    """The standard library's, without app and context."""

    name = _SPAWN
    method = "spawn"

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context(self.method))

    def call(self) -> str:
        return self._pool.submit(_nothing, "x").result(60.0)

    def close(self) -> None:
        self._pool.shutdown()


def measure(size: Size) -> Iterator[Row]:
    """The first item, and each of the others."""
    yield row("first item in a child process, ms", interleaved([Ours, Pool], size.rounds, _first))
    everyone = [Ours(), Pool()]
    try:
        for one in everyone:
            one.call()
        samples = interleaved(everyone, size.rounds, lambda one: _each(one, size.items))
        yield row("each item in a child process, µs", samples, _GOALS)
    finally:
        for one in everyone:
            one.close()


def _first(kind: Callable[[], Children]) -> float:
    began = perf_counter()
    with closing(kind()) as one:
        one.call()
        return (perf_counter() - began) * 1e3


def _each(one: Children, items: int) -> float:
    times = []
    for _ in range(items):
        began = perf_counter()
        one.call()
        times.append(perf_counter() - began)
    return median(times) * 1e6
