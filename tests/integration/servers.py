"""Real servers for tests: started, asked, signalled, and gone at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def eventually(what: str, check: Callable[[], T | bool | None], within: float = 30.0) -> T:
    """Ask until check gives something true, and return that; fail with what after so many seconds."""
    end = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not, when its last thread has gone too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" or threads > 1


class Server:
    """A server process with the recorder app in it."""

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.record = folder / "record"
        self.log_file = folder / "log"
        self._log = self.log_file.open("wb")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [env.get("FIRST_ON_PATH", ""), str(ROOT)])),
                "PYTHONUNBUFFERED": "1",
                "HOME": str(folder),  # gunicorn keeps its control socket there
                "RECORD": str(self.record),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pids = {self.process.pid}

    @property
    def log(self) -> str:
        """The server's output so far."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, pattern: str, within: float = 30.0) -> re.Match[str]:
        """Wait for a line in the log."""
        return eventually(
            f"{pattern!r} in the log:\n{self.log}", lambda: re.search(pattern, self.log), within
        )

    @property
    def url(self) -> str:
        """The server's URL."""
        found = re.search(r"(?:Listening at:|Serving on|Running on) (http://127\.0\.0\.1:\d+)", self.log)
        assert found, self.log
        return found[1]

    def get(self, path: str, within: float = 30.0) -> Any:
        """Ask the app."""
        with urllib.request.urlopen(self.url + path, timeout=within) as response:
            answer = json.load(response)
        if "pid" in answer:
            self.pids.add(answer["pid"])
        return answer

    def try_get(self, path: str) -> Any:
        """The same where a connection may be cut; the answer is empty then."""
        try:
            return self.get(path)
        except (OSError, HTTPException):
            return {}

    def wait_until_up(self) -> int:
        """Wait for the first answer; returns the pid of the process that gave it."""

        def ask() -> int | None:
            assert self.process.poll() is None, self.log
            try:
                return int(self.get("/pid")["pid"])
            except (OSError, AssertionError):
                return None

        return eventually(f"an answer\n{self.log}", ask, 30)

    def events(self, event: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """The lines that the items have written."""
        if not self.record.exists():
            return []
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [
            line
            for line in lines
            if (event is None or line["event"] == event) and (name is None or line["name"] == name)
        ]

    def wait_for(self, event: str, name: str | None = None, within: float = 30.0) -> dict[str, Any]:
        """Wait until an item has written this down."""
        found = eventually(
            f"{event} {name}: {self.events()}\n{self.log}", lambda: self.events(event, name), within
        )
        return found[0]

    def kill(self, signum: signal.Signals, pid: int | None = None) -> float:
        """Send a signal, to the first process by default; returns the time."""
        at = time.time()
        os.kill(self.process.pid if pid is None else pid, signum)
        return at

    def kill_group(self, signum: signal.Signals) -> None:
        """Send a signal to all processes of the server's session, as a terminal does."""
        os.killpg(self.process.pid, signum)

    def wait_gone(self, pid: int | None = None, within: float = 30.0) -> float:
        """Wait until a process has ended, the first one by default; returns the time."""
        if pid is None:
            try:
                self.process.wait(within)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the server has not ended\n{self.log}") from None
        else:
            eventually(f"process {pid} ends\n{self.log}", lambda: not alive(pid), within)
        return time.time()

    def close(self) -> None:
        """End what is left of the server: its own processes, known by their pids, and no others."""
        children = [self.process.pid, *self.pids, *_descendants(self.process.pid)]
        for pid in children:
            if alive(pid) and _is_ours(pid, self.record):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        for pid in children:
            eventually(f"process {pid} ends", lambda pid=pid: not alive(pid), 10)  # type: ignore[misc]
        self._log.close()


def _is_ours(pid: int, record: Path) -> bool:
    try:
        return f"RECORD={record}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _environment(settings: Mapping[str, Any], env: Mapping[str, str] | None) -> dict[str, str]:
    named = {f"FLASK_BACKGROUND_{name.upper()}": json.dumps(value) for name, value in settings.items()}
    return {**named, **(env or {})}


@contextmanager
def gunicorn(
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    app: str = "tests.integration.recorder:create_app()",
    **settings: Any,
) -> Iterator[Server]:
    """A gunicorn that serves the recorder, or an app with a /pid; settings are the app's BACKGROUND_*."""
    # The script, not -m: after USR2 gunicorn starts its own file anew, and finds its http package first.
    script = Path((env or {}).get("FIRST_ON_PATH", sys.prefix)) / "bin" / "gunicorn"
    threads = ("--threads", "4") if "gthread" in options else ()  # would make gthread of sync
    command = [sys.executable, str(script), "--bind", "127.0.0.1:0", *options, *threads]
    command.append(app)
    with _running(Server(command, folder, _environment(settings, env))) as server:
        yield server


@contextmanager
def python(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Server]:
    """A Python process that serves the recorder."""
    with _running(Server([sys.executable, *arguments], folder, _environment(settings, env))) as server:
        yield server


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.wait_until_up()
        yield server
    finally:
        server.close()
