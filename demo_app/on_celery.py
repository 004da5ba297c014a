"""Run the demo on Celery: ``python -m demo_app.on_celery`` from the folder above this one.

The demo itself is unchanged: all settings come from the environment. The broker is the Redis that
BACKGROUND_CELERY names, or one of the demo's own. Redis, a Celery worker and gunicorn are started in sessions
of their own, so Ctrl-C reaches this process alone, which ends them one after the other: first gunicorn, then
the worker, then Redis. A second Ctrl-C sends running items back to the queue.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

INSTANCE = Path(os.environ.get("DEMO_INSTANCE", Path(__file__).parents[1] / "instance")).resolve()

_LOOKS = 0.1  # seconds between two looks at what runs
_REDIS_WITHIN = 15.0


class Programs:
    """The started programs, in the order of their start."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes], signal.Signals]] = []
        self.asked = 0

    def ask(self, number: int, frame: object) -> None:
        """Somebody wants the end: the handler of INT and TERM."""
        self.asked += 1

    def start(
        self, name: str, command: list[str], environ: Mapping[str, str], impatient: signal.Signals
    ) -> None:
        """Start one; ``impatient`` is what ends it faster than TERM."""
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        self._running.append((name, process, impatient))

    def wait(self) -> int:
        """Wait until the end is asked for, or one of them ends by itself; returns the exit code."""
        while not self.asked:
            for name, process, _ in self._running:
                if process.poll() is not None:
                    print(f"{name} has ended with {process.returncode}.", file=sys.stderr)  # noqa: T201
                    return 1
            time.sleep(_LOOKS)
        return 0

    def end(self) -> None:
        """End all, the last one first, each with the time that it takes."""
        hurried = self.asked
        for _, process, impatient in reversed(self._running):
            process.terminate()
            while process.poll() is None:
                if self.asked > hurried:
                    process.send_signal(impatient)
                    hurried = self.asked
                time.sleep(_LOOKS)


def start_redis(programs: Programs) -> str:
    """Start a Redis that keeps what it has in the demo's folder; returns its URL."""
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit(
            "the demo needs a Redis: sudo apt-get install redis-server, or set BACKGROUND_CELERY"
        )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    folder = INSTANCE / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    options = ["--appendonly", "yes", "--save", "", "--logfile", "log"]
    programs.start("Redis", [server, *where, *options], os.environ, signal.SIGINT)
    until(lambda: programs.asked or answers(port), _REDIS_WITHIN)
    return f"redis://127.0.0.1:{port}/0"


def answers(port: int) -> bool:
    """Whether a Redis is there, and has read what it kept."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")
    except OSError:
        return False


def until(look: Callable[[], object], seconds: float) -> None:
    """Wait until there is something to see. Raises SystemExit."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise SystemExit("the demo's Redis does not answer")
        time.sleep(_LOOKS)


def main() -> int:
    """Run all three until Ctrl-C; returns the exit code."""
    programs = Programs()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, programs.ask)
    INSTANCE.mkdir(mode=0o700, parents=True, exist_ok=True)
    uploads = INSTANCE / "uploads"
    uploads.mkdir(mode=0o700, exist_ok=True)
    try:
        url = os.environ.get("BACKGROUND_CELERY") or start_redis(programs)
        environ = {
            **os.environ,
            "FLASK_BACKGROUND_BACKEND": "celery",
            "FLASK_BACKGROUND_CELERY": json.dumps({"broker_url": url, "result_backend": url}),
            "FLASK_BACKGROUND_UPLOADS": str(uploads),
        }
        python = [sys.executable, "-m"]
        worker = ["celery", "--app", "demo_app.celery", "worker", "--concurrency", "2", "--loglevel", "info"]
        programs.start("The Celery worker", [*python, *worker], environ, signal.SIGQUIT)
        site = ["gunicorn", "--config", "demo_app/gunicorn.conf.py", "demo_app:create_app()"]
        programs.start("gunicorn", [*python, *site], environ, signal.SIGINT)
        return programs.wait()
    finally:
        programs.end()


if __name__ == "__main__":
    raise SystemExit(main())
