"""A real Redis for tests, on a port of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from .helpers import BOUND, free_port, until


class Redis:
    """A server on a port of its own, which can be stopped, and started again with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        server = shutil.which("redis-server")
        if server is None:
            pytest.fail("the tests need a Redis: `make test` installs it")
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self._folder)]
        with Path(self._folder, "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [server, *options, "--appendonly", "yes", "--save", ""],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers)

    def stop(self) -> None:
        """End it; what it has is on disk."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(BOUND)

    def pause(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, with what came meanwhile."""
        self.process.send_signal(signal.SIGCONT)
        until(self._answers)

    def forget_all(self) -> None:
        """Empty it."""
        self._ask(b"FLUSHALL")

    def drop_connections(self) -> None:
        """Close the connections of all clients."""
        self._ask(b"CLIENT KILL TYPE normal SKIPME yes")

    def length(self, queue: str) -> int:
        """The number of messages that wait in a queue."""
        return int(self._ask(b"LLEN " + queue.encode())[1:])

    def keys(self, database: int, pattern: str) -> list[str]:
        """The names of what it has, by a pattern."""
        with redis.Redis.from_url(f"{self.url}/{database}", decode_responses=True) as client:
            return list(client.keys(pattern))  # type: ignore[arg-type]

    def all_text(self) -> str:
        """All that it has ever been told."""
        return "".join(
            path.read_text(errors="replace") for path in self._folder.rglob("appendonly*") if path.is_file()
        )

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(100)

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING").startswith(b"+PONG")
        except OSError:
            return False
