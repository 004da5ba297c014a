"""The ids of processes: which process one names, and whether that process still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flask_background.durable.journal import process_identity

from ...helpers import until
from ..rows import dead_process_id

PROGRAM = """
import sys
from flask_background.durable.journal import process_identity
print(process_identity.new_id(), flush=True)
sys.stdin.read()
"""
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
#: A pid namespace whose /proc is the one outside, and shows other processes under these pids.
HALF_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")


def start(*within: str) -> tuple[subprocess.Popen[str], str]:
    """Start another process; return it with its id."""
    process = subprocess.Popen(
        [*within, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process, and wait for its end."""
    process.kill()
    process.communicate()


def test_own() -> None:
    """This process runs, and each of its ids is another one."""
    first, second = process_identity.new_id(), process_identity.new_id()
    assert first != second
    for process_id in (first, second):
        assert process_identity.pid_of(process_id) == os.getpid()
        assert process_identity.is_running(process_id) is True
        assert process_identity.short_name(process_id) == str(os.getpid())


def test_another_process() -> None:
    """Another process runs until it is dead, also while it is stopped; a zombie does not run."""
    process, process_id = start()
    assert process_identity.pid_of(process_id) == process.pid
    assert process_identity.is_running(process_id) is True
    process.send_signal(signal.SIGSTOP)
    assert process_identity.is_running(process_id) is True
    process.kill()
    until(lambda: process_identity.is_running(process_id) is False)
    assert Path(f"/proc/{process.pid}/stat").exists()  # the zombie is still there
    process.communicate()
    assert process_identity.is_running(process_id) is False


def test_pid_of_another_process_by_now() -> None:
    """A process with the same pid that started at another time is another one."""
    assert process_identity.is_running(dead_process_id()) is False


def test_before_the_boot() -> None:
    """A process of this pid namespace from before the last boot is dead."""
    pid, start, namespace, _, number = process_identity.new_id().split("-")
    assert process_identity.is_running(f"{pid}-{start}-{namespace}-0a0b0c0d-{number}") is False


@pytest.mark.parametrize("within", [CONTAINER, HALF_A_CONTAINER])
def test_another_container(within: tuple[str, ...]) -> None:
    """A pid of another container means nothing here: the kernel does not tell whether that process runs."""
    process, process_id = start(*within)
    try:
        assert process_identity.short_name(process_id) == "1"
        assert process_identity.pid_of(process_id) is None
        assert process_identity.is_running(process_id) is None
    finally:
        end(process)
    assert process_identity.is_running(process_id) is None


@pytest.mark.parametrize(
    "process_id", ["", "1", "1-a", "x-1-2-3-4", "1-0-0-0-a", "²-1-2-3-4", f"{10**30}-1-2-3-4"]
)
def test_strange_ids(process_id: str) -> None:
    """The kernel knows nothing of a process whose id has other parts, or none."""
    assert process_identity.is_running(process_id) is None
    assert process_identity.pid_of(process_id) is None


def test_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system has no /proc, an id is made all the same, and nothing is known of the process."""
    known = process_identity.new_id()
    monkeypatch.setattr(process_identity, "_PROC", tmp_path)
    process_id = process_identity.new_id()
    assert process_id.startswith(f"{os.getpid()}-0-0-0-")
    assert process_identity.is_running(process_id) is None
    assert process_identity.is_running(known) is None
