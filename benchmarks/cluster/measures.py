"""The measures of items for Celery; as in ``benchmarks.measures``, one sample a round of every peer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from ..durable.base import Place
from ..durable.processes import place
from ..programs import running
from ..rounds import interleaved, row
from ..table import Goal, Row
from .peers import PEERS, Late, Peer, Plain

_COST = {kind.name: Goal(1.25) for kind in (Plain, Late)}
_RATE = {kind.name: Goal(1 / 1.25, at_least=True) for kind in (Plain, Late)}


@dataclass(frozen=True)
class Size:
    """How many rounds, short ones and long ones; how many items each peer has in one: alone, and in a row."""

    short: int
    rounds: int
    alone: int
    in_a_row: int


FULL = Size(short=300, rounds=9, alone=5, in_a_row=300)
QUICK = Size(short=3, rounds=2, alone=2, in_a_row=20)


def measure(size: Size) -> Iterator[Row]:
    """Take all measures, one after the other."""
    with place() as where, _peers(where) as everyone:  # with no worker beside them
        samples = interleaved(everyone, size.short, lambda peer: enqueue(peer, size.alone))
        yield row("enqueue for Celery, 1 in a request, µs", samples, _COST)
    with place() as where, _peers(where) as everyone, _workers(where):
        for peer in everyone:
            latency(peer, 1)  # its worker is there
        samples = interleaved(everyone, size.short, lambda peer: latency(peer, size.alone))
        yield row("from enqueue to the result, workers: 1, ms", samples, _COST)
        samples = interleaved(everyone, size.rounds, lambda peer: throughput(peer, size.in_a_row))
        yield row("end to end, workers: 1, items/s", samples, _RATE)


def enqueue(peer: Peer, count: int) -> float:
    """The time that a view waits for its only enqueue, in µs: the median of so many requests."""
    times = []
    for _ in range(count):
        with peer.app.test_request_context("/photos/1", method="POST"):
            began = perf_counter()
            item = peer.enqueue("x")
            times.append(perf_counter() - began)
            del item  # a result of Celery's is unsubscribed from here
    return median(times) * 1e6


def latency(peer: Peer, count: int) -> float:
    """From the call of enqueue to the result, in ms: the median on an idle worker."""
    times = []
    with peer.app.test_request_context("/photos/1", method="POST"):
        for _ in range(count):
            began = perf_counter()
            peer.settle([peer.enqueue("x")])
            times.append(perf_counter() - began)
    return median(times) * 1e3


def throughput(peer: Peer, count: int) -> float:
    """Items per second, from the first enqueue until all results are here."""
    with peer.app.test_request_context("/photos/1", method="POST"):
        began = perf_counter()
        peer.settle([peer.enqueue("x") for _ in range(count)])
        return count / (perf_counter() - began)


@contextmanager
def _peers(where: Place) -> Iterator[Sequence[Peer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(kind(where.redis_port))) for kind in PEERS]


@contextmanager
def _workers(where: Place) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in PEERS:
            command = [sys.executable, "-m", f"{__package__}.worker", kind.name, str(where.redis_port)]
            stack.enter_context(running(command, where.folder / f"{kind.__name__}.log"))
        yield
