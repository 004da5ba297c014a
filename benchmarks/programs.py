"""Programs that run beside a benchmark, and are ended with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 15.0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Have a program run meanwhile, with all that it starts."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environ,
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
