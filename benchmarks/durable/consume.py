"""A consumer: ``python -m benchmarks.durable.consume NAME FOLDER PORT``."""

from __future__ import annotations

import sys
from pathlib import Path

from .base import Place
from .ours import Ours
from .theirs import Celery, Huey, Rq

name, folder, port = sys.argv[1:]
(kind,) = (kind for kind in (Ours, Huey, Celery, Rq) if kind.name == name)
kind(Place(Path(folder), int(port))).consume()
