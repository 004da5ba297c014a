"""Prints the table; see the package."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from . import children
from .cluster import measures as cluster
from .durable import measures as durable
from .latency import measures as latency
from .latency.site import SWITCH_INTERVAL
from .measures import FULL, QUICK, measure
from .table import render

_HEADER = """\
Flask-Background against its peers, in one process and one run: {packages}.
Python {python} on {system}, {cpus} CPUs.

Medians of {rounds} interleaved rounds after one to warm up; ± is half the spread of their middle half.
A ratio is ours to the peer's in the same round, the median over the rounds. All have the same number of
threads (4 where none is named) and no other settings. The function does nothing and takes one string. Ours
carries the request's state along, Flask-Executor a copy of the request context, ThreadPoolExecutor nothing.
From enqueue to start, and end to end, the function has an app context, which for ThreadPoolExecutor it pushes
itself; "app context alone" is a loop that pushes and pops one, with no queue. The workers are idle where one
item is enqueued, and held back where many are. Bytes are counted by tracemalloc, queue and books included.

One item in a request finds cold caches, as in a view, and pays for the copy of the request's state; the items
of one request share that copy. End to end is one view that enqueues {batch:,} items in a row and waits. It is
all Python code, which runs on one CPU at a time: it takes the time to enqueue plus the time to run, and more
threads do not help. The goals are what we would like; NO says that it is not so.
"""

_DURABLE = """
Durable items beside queues that other packages keep: {packages}.

Ours is at level "power": when enqueue returns, a power cut does not lose the item. SqliteHuey syncs at each
commit too, and loses the item that runs when its process is killed. Celery and RQ write to a real Redis
with ``appendonly yes``, which syncs once a second and so may lose the last one; Celery with its defaults
loses what runs as well. "A commit each" is plain SQLite, one row and one sync a transaction; "fdatasync" is
one write of 4 KiB and one sync, over what the file has, or at its end. Producers are threads of one process
in a request. End to end, two more processes run items that write one byte each. At last, of two processes
the one that runs an item is killed, and it is timed when the other one begins to run it again.
"""

_CLUSTER = """
Items for Celery, beside tasks of Celery as Flask's documentation has them: its Redis for broker and results,
an app context for each run. One peer has Celery's defaults, with which a worker takes four messages at a time
and loses them when it dies; the other one acknowledges late and takes one at a time, as ours does by default.
Each has one worker of one process, and a database of its own in the same Redis. Samples are of a few items,
so that all meet the same noise. Ours has a record that every process can read when enqueue returns.
"""

_CHILDREN = """
Items in a child process, one after the other. The first one waits for the start of the process, which for
ours loads the app. The function does nothing.
"""

_LATENCY = """
A view that returns "ok", under gunicorn {gunicorn} with one worker of four threads, asked 100 times a second,
while 1 or 4 items compute in Python: on threads; on threads that pass the interpreter on after {switch:g} ms
("eased": BACKGROUND_SWITCH_INTERVAL); in child processes, niceness 10; and with Flask-Executor's two kinds.
Medians of {rounds} rounds of {seconds:g} s; ratios are to the same round with nothing beside the view.
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare with the peers.")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that all works")
    quick = parser.parse_args().quick
    size = QUICK if quick else FULL
    print(
        _HEADER.format(
            packages=", ".join(map(_versioned, ("Flask-Background", "Flask-Executor", "Flask", "Werkzeug"))),
            python=platform.python_version(),
            system=platform.platform(),
            cpus=os.cpu_count(),
            rounds=size.rounds,
            batch=size.batch,
        )
    )
    print(render(measure(size)))
    print(_DURABLE.format(packages=", ".join(map(_versioned, ("huey", "celery", "rq", "redis")))))
    print(render(durable.measure(durable.QUICK if quick else durable.FULL)))
    print(_CLUSTER)
    print(render(cluster.measure(cluster.QUICK if quick else cluster.FULL)))
    print(_CHILDREN)
    print(render(children.measure(children.QUICK if quick else children.FULL)))
    load = latency.QUICK if quick else latency.FULL
    print(
        _LATENCY.format(
            gunicorn=version("gunicorn"),
            switch=SWITCH_INTERVAL * 1e3,
            rounds=load.rounds,
            seconds=load.seconds,
        )
    )
    print(render(latency.measure(load), latency.HEADINGS))


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # ours, run from its directory
        return package


main()
