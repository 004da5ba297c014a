"""The processes of web servers, known by their command and by a socket that accepts connections."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_background.hosts import web_servers


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that may be told to listen; the sockets of the test's own process do not count."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(os, "listdir", lambda path: ["0", "1", str(sock.fileno()), "999999"])
        yield sock


@pytest.mark.parametrize(
    ("program", "alone", "child"),
    [
        ("/venv/bin/waitress-serve", True, False),
        ("/venv/lib/waitress/__main__.py", True, False),
        ("/venv/bin/cheroot", True, False),
        ("/venv/bin/daphne", True, False),
        ("/venv/bin/uvicorn", True, True),
        ("/venv/bin/granian", False, True),
        ("/venv/bin/hypercorn", False, True),
        ("/venv/bin/gunicorn", False, False),  # it has hooks
        ("/venv/bin/flask", False, False),  # its command is asked for
        ("/venv/bin/celery", False, False),
        ("/venv/lib/pytest/__main__.py", False, False),
        ("/srv/uvicorn.py", False, False),
        ("/srv/uvicorn/manage.py", False, False),
        ("-c", False, False),
        ("", False, False),
    ],
)
def test_command(monkeypatch: pytest.MonkeyPatch, program: str, alone: bool, child: bool) -> None:
    """A server serves in the process of its command, in children, or in either."""
    monkeypatch.setattr(sys, "argv", [program])
    assert web_servers.is_of_server() is alone
    monkeypatch.setitem(sys.modules, "multiprocessing", SimpleNamespace(parent_process=object))
    assert web_servers.is_of_server() is child


def test_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that is embedded in another program may have no command line."""
    monkeypatch.setattr(sys, "argv", [])
    assert not web_servers.is_of_server()


def test_listens(listening: socket.socket) -> None:
    """A socket counts when it accepts connections, and is left as it is."""
    assert not web_servers.listens()
    listening.listen()
    assert web_servers.listens()
    assert listening.getsockname()[0] == "127.0.0.1"


def test_mode_of_a_socket_stays(listening: socket.socket) -> None:
    """A blocking socket stays one, whatever the default timeout of new sockets is."""
    listening.listen()
    socket.setdefaulttimeout(5)
    try:
        assert web_servers.listens()
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(listening.fileno())


def test_locks_stay(tmp_path: Path) -> None:
    """The process's locks on files are still held afterwards: a copied descriptor would release them."""
    ask = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with (tmp_path / "lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        web_servers.listens()
        done = subprocess.run([sys.executable, "-c", ask, file.name], capture_output=True, text=True)
    assert "BlockingIOError" in done.stderr


def test_unknown_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not list descriptors has no listening socket."""
    monkeypatch.setattr(os, "listdir", lambda path: os.scandir("/nowhere"))
    assert not web_servers.listens()


def test_uwsgi() -> None:
    """uWSGI's module is known by its workers, and left to the first request where gevent comes later."""
    assert web_servers.is_uwsgi(SimpleNamespace(worker_id=int, opt={}))
    assert not web_servers.is_uwsgi(SimpleNamespace(worker_id=int, opt={"gevent": b"10"}))
    assert not web_servers.is_uwsgi(None)
