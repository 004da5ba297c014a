"""What runs beside the benchmark: a Redis, and the consumers. All of it is ended with it."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from ..programs import free_port, running
from .base import Place, Queue

_PATIENCE = 15.0


@contextmanager
def place() -> Iterator[Place]:
    """A folder, and a Redis that appends to a file in it and syncs that once a second."""
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("the benchmarks need a Redis: sudo apt-get install redis-server")
    port = free_port()
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--appendonly", "yes"]
        with running([server, *options], Path(folder, "redis.log")):
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
                stack.enter_context(running(command, log))
        yield


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
