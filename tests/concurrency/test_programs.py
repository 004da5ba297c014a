"""Programs that this process starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flask_background.concurrency import programs

from ..helpers import until


@pytest.mark.process
def test_program_without_the_private_spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs start, with their pipes, even if CPython lacks its private function for that."""
    monkeypatch.setattr(programs, "find_private", lambda name: None)
    read, write = os.pipe()
    code = f"import os; os.write({write}, b'here')"
    pid = programs.start_program([sys.executable, "-c", code], (write,))
    os.close(write)
    assert os.read(read, 10) == b"here"
    os.close(read)
    assert until(lambda: programs.has_ended(pid))
    assert programs.exit_code_of(pid) == 0


def test_interpreter_is_this_one() -> None:
    """In an ordinary process the interpreter is the one that runs."""
    assert programs.interpreter() == sys.executable


@pytest.mark.process
@pytest.mark.parametrize("executable", ["/usr/bin/uwsgi", "/usr/sbin/apache2", "", "/opt/granian"])
def test_interpreter_inside_a_server(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    """In a server with a built-in Python, the interpreter is that of the same environment."""
    monkeypatch.setattr(sys, "executable", executable)
    code = "import sys; print(sys.prefix, sys.version)"
    program = subprocess.run([programs.interpreter(), "-c", code], capture_output=True, text=True, check=True)
    assert program.stdout.strip() == f"{sys.prefix} {sys.version}"


def test_interpreter_outside_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own interpreter is taken where the server names the one that it was made from."""
    outside = os.path.realpath(sys.executable)
    assert sys.prefix != sys.base_prefix, "the tests run in a virtual environment"
    monkeypatch.setattr(sys, "executable", outside)
    assert programs.interpreter().startswith(sys.prefix)
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    monkeypatch.setattr(sys, "exec_prefix", "/nowhere")
    monkeypatch.setattr(sys, "base_prefix", "/nowhere/else")
    assert programs.interpreter() == outside


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error for a missing interpreter says where it was looked for."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        programs.interpreter()
