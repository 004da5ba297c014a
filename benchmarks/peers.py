"""The peers: ways to hand a call over, on the same number of threads and without settings of their own."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar

from flask import Flask, request
from flask_executor import Executor  # type: ignore[import-untyped]
from werkzeug.test import create_environ, run_wsgi_app

from flask_background import Background

from .rounds import OURS

Function = Callable[[str], object]


class Site:
    """An app whose one view does what the benchmark asks for."""

    def __init__(self, workers: int) -> None:
        self.app = Flask("benchmarks")
        self.app.config.update(
            BACKGROUND_WORKERS=workers, EXECUTOR_MAX_WORKERS=workers, PROPAGATE_EXCEPTIONS=True
        )
        self.app.add_url_rule("/photos/<int:number>", view_func=self._view, methods=["POST"])
        self._numbers = itertools.count()

    def visit(self, do: Callable[[], object]) -> None:
        """Call do in a request. What a server reads from the socket, no request shares with another."""
        number = next(self._numbers)
        environ = create_environ(f"/photos/{number}", "http://www.example.com", method="POST")
        environ["REMOTE_ADDR"] = f"203.0.113.{number % 256}"
        for key in ("REQUEST_METHOD", "HTTP_HOST"):
            environ[key] = environ[key].encode().decode()
        environ["benchmarks.do"] = do
        run_wsgi_app(self.app, environ)

    def _view(self, number: int) -> str:
        request.environ["benchmarks.do"]()
        return ""


class Peer(ABC):
    """One way to hand calls over. All but the constructor is used in a request."""

    name: ClassVar[str]

    def __init__(self, site: Site, workers: int) -> None:
        self.site = site
        self.workers = workers

    @abstractmethod
    def enqueuer(self, function: Function) -> Function:
        """What a view calls, with the argument, so that function is called with it later."""

    def in_app_context(self, function: Function) -> Function:
        """Function as one has to write it for this peer if it needs an app context."""
        return function

    @abstractmethod
    def close(self) -> None:
        """End the threads."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the workers from their queue meanwhile."""
        gate = threading.Event()
        self._gather(gate.wait)
        try:
            yield
        finally:
            gate.set()

    def settle(self) -> None:
        """Wait until all that was enqueued is done: first in, first out, and all workers have come here."""
        self._gather()

    def _gather(self, then: Callable[[], object] = bool) -> None:
        everyone = threading.Barrier(self.workers + 1)

        def arrive(_: str) -> None:
            everyone.wait()
            then()

        enqueue = self.enqueuer(arrive)
        for _ in range(self.workers):
            enqueue("x")
        everyone.wait()


class Ours(Peer):
    """Flask-Background."""

    name = OURS

    def __init__(self, site: Site, workers: int) -> None:
        super().__init__(site, workers)
        self._background = Background(site.app)

    def enqueuer(self, function: Function) -> Function:
        return self._background.task(function).enqueue

    def close(self) -> None:
        self._background.stop()


class Pool(Peer):
    """``concurrent.futures``, which knows nothing of Flask."""

    name = "ThreadPoolExecutor"

    def __init__(self, site: Site, workers: int) -> None:
        super().__init__(site, workers)
        self._pool = ThreadPoolExecutor(workers)

    def enqueuer(self, function: Function) -> Function:
        return lambda argument: self._pool.submit(function, argument)

    def in_app_context(self, function: Function) -> Function:
        def wrapped(argument: str) -> object:
            with self.site.app.app_context():
                return function(argument)

        return wrapped

    def close(self) -> None:
        self._pool.shutdown()


class FlaskExecutor(Peer):
    """Flask-Executor, which copies the request context."""

    name = "Flask-Executor"

    def __init__(self, site: Site, workers: int) -> None:
        super().__init__(site, workers)
        self._executor = Executor(site.app)

    def enqueuer(self, function: Function) -> Function:
        return lambda argument: self._executor.submit(function, argument)

    def close(self) -> None:
        self._executor.shutdown()


class ContextAlone(Peer):
    """No queue, no thread, no call: what an app context costs by itself."""

    name = "app context alone"

    def enqueuer(self, function: Function) -> Function:
        def push_and_pop(_: str) -> None:
            with self.site.app.app_context():
                pass

        return push_and_pop

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def peers(workers: int) -> Iterator[list[Peer]]:
    """All that have threads, which are started."""
    site = Site(workers)
    everyone: list[Peer] = [kind(site, workers) for kind in (Ours, Pool, FlaskExecutor)]
    for peer in everyone:
        site.visit(peer.settle)
    try:
        yield everyone
    finally:
        for peer in everyone:
            peer.close()
