"""What is measured of durable items; as in ``benchmarks.measures``, one sample a round of everybody."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median
from threading import Barrier
from time import perf_counter
from typing import Any

from ..rounds import interleaved, row
from ..table import Goal, Row
from .base import Durable, Queue
from .disk import Appending, CommitEach, InPlace
from .ours import Ours
from .processes import consumers, place
from .recovery import recoveries
from .theirs import Celery, Huey, Rq
from .work import Told

_QUEUES = (Ours, Huey, Celery, Rq)
_GOALS = {
    8: {Celery.name: Goal(8.0, at_least=True)},
    64: {CommitEach.name: Goal(5.0, at_least=True)},
}
_WAIT = {InPlace.name: Goal(2.0)}
# How many threads enqueue end to end, and how long the items may take, in seconds.
_PRODUCERS = 8
_PATIENCE = 60.0


@dataclass(frozen=True)
class Size:
    """How many rounds; how many items each producer, or all of them together, has in each; how many kills."""

    rounds: int
    alone: int
    together: int
    end_to_end: int
    kills: int


FULL = Size(rounds=7, alone=200, together=1_024, end_to_end=2_000, kills=60)
QUICK = Size(rounds=2, alone=20, together=128, end_to_end=100, kills=2)


def measure(size: Size) -> Iterator[Row]:
    """All of them, one after the other."""
    with place() as where, ExitStack() as stack:
        queues = [stack.enter_context(closing(kind(where))) for kind in _QUEUES]
        disk = [stack.enter_context(closing(kind(where))) for kind in (CommitEach, InPlace, Appending)]
        samples = interleaved([*queues, *disk], size.rounds, lambda one: wait(one, size.alone))
        yield row("durable enqueue, 1 producer, µs", samples, _WAIT)
        writers = [*queues, disk[0]]
        for producers in (1, 8, 64):
            count = size.alone if producers == 1 else size.together
            samples = interleaved(writers, size.rounds, lambda one: rate(one, producers, count))  # noqa: B023
            yield row(f"durable enqueue, producers: {producers}, items/s", samples, _GOALS.get(producers, {}))
    with place() as where, ExitStack() as stack:  # with nothing left in the queues
        queues = [stack.enter_context(closing(kind(where))) for kind in _QUEUES]
        told = stack.enter_context(closing(Told(where.folder)))
        stack.enter_context(consumers(queues))
        samples = interleaved(queues, size.rounds, lambda queue: end_to_end(queue, told, size.end_to_end))
        yield row(f"durable, end to end, producers: {_PRODUCERS}, consumers: 2, items/s", samples)
    times = recoveries(size.kills)
    yield Row(f"run again after kill -9, {size.kills} kills, ms", times, {})
    yield Row("run again after kill -9, the worst, ms", [max(times)] * 2, {}, limit=Goal(1_000.0))


def wait(one: Durable, count: int) -> float:
    """What a thread waits for its item to be there, in µs, with nobody beside it: the median."""
    times = []
    with one.producer() as enqueue:
        for _ in range(count):
            began = perf_counter()
            enqueue("x")
            times.append(perf_counter() - began)
    return median(times) * 1e6


def rate(one: Durable, producers: int, count: int) -> float:
    """Items per second that are there, from so many threads; count is what they all enqueue together."""
    began, _ = produce(one, "x", producers, count)
    return count / (perf_counter() - began)


def end_to_end(queue: Queue, told: Told, count: int) -> float:
    """Items per second, from the first enqueue until all have ended."""
    count = max(_PRODUCERS, int(count * queue.part))
    began, items = produce(queue, told.fifo, _PRODUCERS, count)
    told.wait(len(items), _PATIENCE)
    queue.settle(items)
    return count / (perf_counter() - began)


def produce(one: Durable, argument: str, producers: int, count: int) -> tuple[float, list[Any]]:
    """Enqueue from so many threads. Returns when they began, and what they got, in order."""
    everyone = Barrier(producers + 1)
    items: list[Any] = []

    def run() -> None:
        with one.producer() as enqueue:
            everyone.wait(_PATIENCE)
            for _ in range(count // producers):
                items.append(enqueue(argument))

    with ThreadPoolExecutor(producers) as pool:
        runs = [pool.submit(run) for _ in range(producers)]
        everyone.wait(_PATIENCE)
        began = perf_counter()
        for done in runs:
            done.result()
    return began, items
