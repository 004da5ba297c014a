"""What is measured: each measure takes one sample a round of every peer, and makes one row of the table."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import median
from time import perf_counter, sleep

from .peers import ContextAlone, FlaskExecutor, Ours, Peer, Pool, peers
from .rounds import interleaved, row
from .table import Goal, Row

_DEFAULT_WORKERS = min(32, (os.cpu_count() or 1) + 4)  # of Flask-Background and ThreadPoolExecutor alike

_ENQUEUE = {Pool.name: Goal(1.0), FlaskExecutor.name: Goal(1 / 6)}
_END_TO_END = {
    Pool.name: Goal(3.0, at_least=True),
    FlaskExecutor.name: Goal(10.0, at_least=True),
    ContextAlone.name: Goal(0.5, at_least=True),
}
_QUEUED_BYTES = Goal(400)
_IMPORT_MS = Goal(25)

# What to import, and what then is called in a view.
_FRESH = {
    Ours.name: ("flask_background", "flask_background.Background(app).task(len).enqueue"),
    Pool.name: ("concurrent.futures.thread", "partial(concurrent.futures.ThreadPoolExecutor().submit, len)"),
    FlaskExecutor.name: ("flask_executor", "partial(flask_executor.Executor(app).submit, len)"),
}
_TIME_FRESH = """\
from functools import partial
from time import perf_counter
from flask import Flask

began = perf_counter()
import {module}
imported = perf_counter() - began

app = Flask("benchmarks")
enqueue = {enqueuer}
with app.test_request_context():
    began = perf_counter()
    enqueue("x")
    print(imported, perf_counter() - began)
"""


@dataclass(frozen=True)
class Size:
    """How many rounds, and how many of everything in each."""

    rounds: int
    batch: int
    requests: int
    latencies: int
    queued: int


FULL = Size(rounds=21, batch=1_000, requests=200, latencies=100, queued=1_000)
QUICK = Size(rounds=2, batch=200, requests=20, latencies=10, queued=100)


def noop(_: str) -> None:
    """What an item does here."""


def measure(size: Size) -> Iterator[Row]:
    """All of them, one after the other."""
    with peers(workers=4) as everyone:
        samples = interleaved(everyone, size.rounds, lambda peer: enqueue_one(peer, size.requests))
        yield row("enqueue, 1 in a request, µs", samples, _ENQUEUE)
        samples = interleaved(everyone, size.rounds, lambda peer: enqueue_many(peer, size.batch))
        yield row(f"enqueue, {size.batch:,} in a request, µs", samples, _ENQUEUE)
        samples = interleaved(everyone, size.rounds, lambda peer: latency(peer, size.latencies))
        yield row("enqueue to start, µs", samples)
    for workers in (1, 4, _DEFAULT_WORKERS):
        with peers(workers) as everyone:
            everyone.append(ContextAlone(everyone[0].site, workers))
            samples = interleaved(everyone, size.rounds, lambda peer: throughput(peer, size.batch))
            yield row(f"end to end, threads: {workers}, items/s", samples, _END_TO_END)
    with peers(workers=4) as everyone:
        samples = interleaved(everyone, 2, lambda peer: memory_of_one(peer, size.queued))
        yield row("queued item, 1 in a request, bytes", samples, limit=_QUEUED_BYTES)
        samples = interleaved(everyone, 2, lambda peer: memory_of_many(peer, size.queued))
        yield row(f"queued item, {size.queued:,} in a request, bytes", samples, limit=_QUEUED_BYTES)
    imports, enqueues = in_fresh_processes(size.rounds)
    yield row("import after Flask, ms", imports, limit=_IMPORT_MS)
    yield row("first enqueue in a process, ms", enqueues)


def enqueue_one(peer: Peer, requests: int) -> float:
    """What a view waits for its only enqueue, in µs: the median of so many requests."""
    enqueue = peer.enqueuer(noop)
    times = []

    def view() -> None:
        began = perf_counter()
        enqueue("x")
        times.append(perf_counter() - began)

    for _ in range(requests):
        peer.site.visit(view)
    peer.site.visit(peer.settle)
    return median(times) * 1e6


def enqueue_many(peer: Peer, count: int) -> float:
    """What each of many costs a view, in µs. The workers are held, so as not to be measured too."""
    enqueue = peer.enqueuer(noop)
    times = []

    def view() -> None:
        with peer.held():
            began = perf_counter()
            for _ in range(count):
                enqueue("x")
            times.append(perf_counter() - began)
        peer.settle()

    peer.site.visit(view)
    return times[0] / count * 1e6


def latency(peer: Peer, count: int) -> float:
    """From the call of enqueue to the function's first line, in µs: the median on idle workers."""
    starts: SimpleQueue[float] = SimpleQueue()
    enqueue = peer.enqueuer(peer.in_app_context(lambda _: starts.put(perf_counter())))
    times = []

    def view() -> None:
        for _ in range(count):
            began = perf_counter()
            enqueue("x")
            times.append(starts.get() - began)
            sleep(0.001)  # the worker goes back to its queue

    peer.site.visit(view)
    return median(times) * 1e6


def throughput(peer: Peer, count: int) -> float:
    """Items per second, from the first enqueue until all are done, each in an app context."""
    enqueue = peer.enqueuer(peer.in_app_context(noop))
    times = []

    def view() -> None:
        began = perf_counter()
        for _ in range(count):
            enqueue("x")
        peer.settle()
        times.append(perf_counter() - began)

    peer.site.visit(view)
    return count / times[0]


def memory_of_one(peer: Peer, count: int) -> float:
    """Bytes that an item takes while it is queued, each from a request of its own."""
    enqueue = peer.enqueuer(noop)

    def fill() -> None:
        for _ in range(count):
            peer.site.visit(lambda: enqueue("x"))

    return _memory(peer, fill) / count


def memory_of_many(peer: Peer, count: int) -> float:
    """Bytes that an item takes while it is queued, all from one request."""
    enqueue = peer.enqueuer(noop)

    def fill() -> None:
        for _ in range(count):
            enqueue("x")

    return _memory(peer, fill) / count


def _memory(peer: Peer, fill: Callable[[], None]) -> int:
    grown = []

    def view() -> None:
        with peer.held():
            tracemalloc.start()
            fill()
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
        peer.settle()

    peer.site.visit(view)
    return grown[0]


def in_fresh_processes(rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds that an import takes after Flask's, and then the first enqueue, from compiled code."""
    imports: dict[str, list[float]] = {name: [] for name in _FRESH}
    enqueues: dict[str, list[float]] = {name: [] for name in _FRESH}
    with tempfile.TemporaryDirectory() as compiled:
        environ = os.environ | {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(rounds + 1):
            for name, (module, enqueuer) in _FRESH.items():
                script = _TIME_FRESH.format(module=module, enqueuer=enqueuer)
                run = subprocess.run(
                    [sys.executable, "-c", script], env=environ, check=True, capture_output=True, text=True
                )
                if number:
                    for samples, took in zip((imports, enqueues), run.stdout.split(), strict=True):
                        samples[name].append(float(took) * 1e3)
    return imports, enqueues
