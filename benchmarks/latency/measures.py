"""What is measured: a view's latency with nothing in the background, and beside items that compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import Request, urlopen

from ..programs import free_port, running
from ..table import Goal, short
from .site import KINDS

HEADINGS = ("what runs beside the view", "p50, ms", "to idle", "p99, ms", "to idle", "goal", "met")
# How long items compute before the view is asked for, and after that, in seconds.
_BEFORE = 0.5
_AFTER = 0.5
_PATIENCE = 30.0
_GOALS = {("processes", 1): Goal(1.6), ("processes", 4): Goal(3.0)}
_COUNTS = (1, 4)


@dataclass(frozen=True)
class Size:
    """How many rounds, and how many seconds each of its samples takes."""

    rounds: int
    seconds: float


FULL = Size(rounds=5, seconds=5.0)
QUICK = Size(rounds=1, seconds=0.3)

#: p50 and p99 of one sample, in ms.
Quantiles = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of the table: the samples of the rounds, and those with nothing beside the view."""

    what: str
    samples: Sequence[Quantiles]
    idle: Sequence[Quantiles]
    goal: Goal | None = None

    def lines(self) -> Iterator[tuple[str, ...]]:
        """It alone. Ratios are to the sample of the same round, the median over the rounds."""
        cells = []
        for which in range(2):
            ratio = median(
                own[which] / idle[which] for own, idle in zip(self.samples, self.idle, strict=True)
            )
            cells += [short(median(sample[which] for sample in self.samples)), f"{ratio:.2f}"]
        met = "" if self.goal is None else "yes" if self.goal.is_met(ratio) else "NO"
        yield self.what, *cells, str(self.goal or ""), met


def measure(size: Size) -> Iterator[Line]:
    """All of them. Every server is there all the time, and at work for its own samples alone."""
    with TemporaryDirectory(prefix="benchmarks-") as folder, ExitStack() as stack:
        servers = {kind: stack.enter_context(_server(kind, Path(folder))) for kind in KINDS}
        for port in servers.values():  # all their threads and processes are started
            _sample(port, max(_COUNTS), 0.1)
        idle: list[Quantiles] = []
        samples: dict[tuple[str, int], list[Quantiles]] = {}
        for _ in range(size.rounds):
            idle.append(_sample(servers[KINDS[0]], 0, size.seconds))
            for count in _COUNTS:
                for kind, port in servers.items():
                    samples.setdefault((kind, count), []).append(_sample(port, count, size.seconds))
    yield Line("nothing", idle, idle)
    for (kind, count), taken in samples.items():
        yield Line(f"{kind}: {count}", taken, idle, _GOALS.get((kind, count)))


def _sample(port: int, count: int, seconds: float) -> Quantiles:
    if count:
        _ask(port, f"/compute/{count}/{_BEFORE + seconds + _AFTER:.1f}", method="POST")
        sleep(_BEFORE)
    load = subprocess.run(
        [sys.executable, "-m", f"{__package__}.load", str(port), str(seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=seconds + 2 * _PATIENCE,
    )
    cuts = quantiles(map(float, load.stdout.split()), n=100, method="inclusive")
    end = monotonic() + _PATIENCE
    while _ask(port, "/left") != b"0":
        if monotonic() > end:
            raise TimeoutError("the items do not end")
        sleep(0.1)
    return cuts[49], cuts[98]


def _ask(port: int, path: str, method: str = "GET") -> bytes:
    with urlopen(Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=_PATIENCE) as answer:
        body: bytes = answer.read()
        return body


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[int]:
    """A gunicorn with one worker of four threads; its port."""
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "4", "--keep-alive", "60"]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        *options,
        "--timeout",
        "120",
        f"{__package__}.site:create_app()",
    ]
    environ = os.environ | {"LATENCY": kind, "HOME": str(folder)}
    with running(command, folder / f"{kind}.log", environ):
        end = monotonic() + _PATIENCE
        while True:
            try:
                _ask(port, "/")
                break
            except URLError:
                if monotonic() > end:
                    raise TimeoutError(f"gunicorn does not answer, with {kind}") from None
                sleep(0.05)
        yield port
