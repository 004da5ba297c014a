"""How soon an item runs again whose process was killed: two processes, one of them killed again and again."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter

from flask import Flask

from flask_background import Background, current_item

_PATIENCE = 15.0


def recoveries(kills: int) -> list[float]:
    """Milliseconds from each ``kill -9`` to the beginning of the next run, in the process beside it."""
    with TemporaryDirectory(prefix="benchmarks-") as name, closing(_Lines(Path(name, "lines"))) as lines:
        folder = Path(name)
        running: dict[int, subprocess.Popen[bytes]] = {}
        with closing(_App(folder, runs=False)) as app, _ended(running):
            times = []
            _start(folder, running, lines)
            for _ in range(kills):
                _start(folder, running, lines)
                item = app.task.enqueue(str(lines.path))
                first = lines.next()
                running[first].kill()
                began = perf_counter()
                second = lines.next()
                times.append((perf_counter() - began) * 1e3)
                if second == first or second not in running:
                    raise AssertionError(f"killed {first} of {list(running)}, and {second} ran the item")
                running.pop(first).wait(_PATIENCE)
                item.cancel()
                if not item.wait(_PATIENCE):
                    raise TimeoutError("the item did not end")
        return times


class _Lines:
    """A FIFO for the numbers of processes, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)
        self._rest = b""

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def next(self) -> int:
        """Wait for the next one. Raises TimeoutError."""
        end = monotonic() + _PATIENCE
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - monotonic()))
            if not ready:
                raise TimeoutError(f"nothing was heard in {_PATIENCE:g} s")
            self._rest += os.read(self._descriptor, 100)
        line, self._rest = self._rest.split(b"\n", 1)
        return int(line)


def _say(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"%d\n" % os.getpid())
    os.close(descriptor)


def _stay(path: str) -> None:
    """The item: says where it runs, and stays until it is cancelled."""
    _say(path)
    current_item.token.wait(4 * _PATIENCE)


class _App:
    """The app, in the process that enqueues, or in one that runs items."""

    def __init__(self, folder: Path, runs: bool) -> None:
        self.app = Flask("recovery")
        self.app.config.update(BACKGROUND_JOURNAL=folder / "background", BACKGROUND_RUN_IN_WEB=runs)
        self.background = Background(self.app)
        self.task = self.background.task(durable=True, name="stay")(_stay)

    def close(self) -> None:
        """End its threads."""
        self.background.stop(0)


def _start(folder: Path, running: dict[int, subprocess.Popen[bytes]], lines: _Lines) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.durable.recovery", str(folder)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running[process.pid] = process
    if lines.next() != process.pid:
        raise AssertionError("somebody else has said something")


@contextmanager
def _ended(running: dict[int, subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _consume(folder: Path) -> None:
    app = _App(folder, runs=True)
    app.app.test_client().get("/")  # from its first request on, a process looks for work
    _say(str(folder / "lines"))
    signal.pause()


if __name__ == "__main__":
    _consume(Path(sys.argv[1]))
