"""A view's latency under gunicorn -k gevent: idle, and beside items that lock, log, run programs and await.

``python -m benchmarks.greenlets [SECONDS]`` prints the median and the 99th percentile of each, in ms.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

from flask import Flask

from flask_background import Background

from .programs import free_port, running

_ITEMS = 50
_PATIENCE = 15.0


def create_app() -> Flask:
    """Make the app that gunicorn serves."""
    app, lock = Flask(__name__), threading.Lock()
    background = Background(app)

    def share() -> None:
        with lock:
            time.sleep(0.001)
        logging.getLogger(__name__).warning("a line")

    @background.task
    def work() -> None:
        share()
        subprocess.run(["true"], check=True)

    @background.task
    async def await_thread() -> None:
        await asyncio.to_thread(share)

    @app.get("/")
    def view() -> str:
        share()
        return ""

    @app.get("/enqueue")
    def enqueue() -> str:
        stats = background.stats()
        for _ in range((_ITEMS - stats.queued - stats.running) // 2):
            work.enqueue()
            await_thread.enqueue()
        return str(background.stats().succeeded)

    return app


def sample(url: str, seconds: float, *, busy: bool) -> list[float]:
    """How long each request takes, in ms; busy: so many items are in flight all the time."""
    took = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        if busy:
            _ask(f"{url}/enqueue")
            began = time.monotonic()
        _ask(url)
        took.append(1_000 * (time.monotonic() - began))
    return took


def _ask(url: str) -> bytes:
    with urlopen(url, timeout=_PATIENCE) as answer:
        body: bytes = answer.read()
    return body


def main(seconds: float) -> None:
    """Measure, and print."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{port}"]
    with (
        TemporaryDirectory(prefix="benchmarks-") as folder,
        running([*command, f"{__spec__.name}:create_app()"], Path(folder, "log")),
    ):
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                _ask(url)
                break
            except URLError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        for what, busy in (("idle", False), (f"{_ITEMS} items", True)):
            took = sample(url, seconds, busy=busy)
            worst = quantiles(took, n=100, method="inclusive")[-1]
            print(
                f"{what}: median {median(took):.1f} ms, 99th percentile {worst:.1f} ms, {len(took)} requests"
            )
        print("items done:", _ask(f"{url}/enqueue").decode())


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
