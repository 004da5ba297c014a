"""Prints the table; see the package."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

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


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare with the peers.")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that all works")
    size = QUICK if parser.parse_args().quick else FULL
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


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # ours, run from its directory
        return package


main()
