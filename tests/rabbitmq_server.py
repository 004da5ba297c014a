"""A real RabbitMQ for tests, on ports of its own, with an epmd of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from kombu import Connection

from .helpers import free_port, until

# As the package has it: its wrapper in the path would change to a user that cannot read a test's folder.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# The small one of a machine's many tests: one scheduler, and no waiting in circles for work.
_ERLANG = "+S 1:1 +A 4 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
_STARTS_WITHIN = 100.0


class RabbitMQ:
    """A server on a port of its own, which can be stopped, and started again with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._between, self._names = (free_port() for _ in range(3))
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        folder.joinpath("rabbitmq.conf").write_text("log.console = true\nlog.console.level = warning\n")
        # A name server that does not answer would cost five seconds, again and again.
        folder.joinpath("inetrc").write_text("{lookup, [file]}.\n")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not _SERVER.exists():
            pytest.fail("the tests need a RabbitMQ: `make test` installs it")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),  # for the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names),
            "ERL_INETRC": str(self._folder / "inetrc"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_NODENAME": f"rabbit{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(self._between),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "no_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            "RABBITMQ_ALLOW_INPUT": "1",  # or a shell would stand between us and it
        }
        with Path(self._folder, "rabbitmq.log").open("ab") as log:

            def run(*command: str) -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

            self._epmd = run("epmd", "-address", "127.0.0.1", "-port", str(self._names))
            self.process = run(str(_SERVER), "-noinput")
        try:
            until(lambda: self._answers() or self.process.poll() is not None, _STARTS_WITHIN)
            assert self.process.poll() is None
        except BaseException:
            self.stop()
            pytest.fail(f"RabbitMQ did not start:\n{Path(self._folder, 'rabbitmq.log').read_text()}")

    def stop(self) -> None:
        """End it; what it has is on disk."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(_STARTS_WITHIN)
        self._epmd.terminate()
        self._epmd.wait(_STARTS_WITHIN)

    def pause(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, with what came meanwhile."""
        self.process.send_signal(signal.SIGCONT)
        until(self._answers)

    def forget_all(self) -> None:
        """Drop the messages that wait in Celery's queue. Not the queue: producers know that there is one."""
        with Connection(self.url) as connection:
            connection.default_channel.queue_declare("celery", durable=True, auto_delete=False)
            connection.default_channel.queue_purge("celery")

    def _answers(self) -> bool:
        """Whether the server answers a client's greeting."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False
