"""What runs beside the benchmark: a Redis, and the consumers. All of it is ended with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from .base import Place, Queue

_PATIENCE = 15.0


@contextmanager
def place() -> Iterator[Place]:
    """A folder, and a Redis that appends to a file in it and syncs that once a second."""
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("the benchmarks need a Redis: sudo apt-get install redis-server")
    with TemporaryDirectory(prefix="benchmarks-") as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--appendonly", "yes"]
        with _running([server, *options], Path(folder, "redis.log")):
            _wait_for(port)
            yield Place(Path(folder), port)


@contextmanager
def consumers(queues: Sequence[Queue]) -> Iterator[None]:
    """The processes that run the items of these queues."""
    with ExitStack() as stack:
        for queue in queues:
            where = [str(queue.place.folder), str(queue.place.redis_port)]
            command = [sys.executable, "-m", f"{__package__}.consume", queue.name, *where]
            for number in range(queue.processes):
                log = queue.place.folder / f"{type(queue).__name__}-{number}.log"
                stack.enter_context(_running(command, log))
        yield


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        except TimeoutError as error:
            error.add_note(f"{' '.join(command)}:\n{log.read_text()[-2000:]}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)  # it, or what it left behind
            except ProcessLookupError:
                pass
            process.wait()


def _wait_for(port: int) -> None:
    end = monotonic() + _PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        if monotonic() > end:
            raise TimeoutError("Redis does not answer")
        sleep(0.02)
