"""A worker: ``python -m benchmarks.cluster.worker NAME PORT``."""

from __future__ import annotations

import sys

from .peers import PEERS

name, port = sys.argv[1:]
(kind,) = (kind for kind in PEERS if kind.name == name)
kind(int(port)).celery.worker_main(["worker", "--concurrency", "1", "--loglevel", "WARNING"])
