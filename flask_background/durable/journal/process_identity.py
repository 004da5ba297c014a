"""The id of a process, and the kernel's word on whether that process still runs.

An id is ``<pid>-<start>-<namespace>-<boot>-<random>``. A pid alone does not name a process: the kernel gives
the pid to another process later, and every container counts its own pids. ``start`` is the time at which the
process started, in the kernel's ticks since the boot. A part that the system does not tell is 0.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
# States in /proc/<pid>/stat of a process that has ended: its parent has not waited for it yet.
_ENDED = ("Z", "X")


class _Identity(NamedTuple):
    pid: int
    start: str
    namespace: str
    boot: str


def new_id() -> str:
    """Return an id of this process, which no process has had before."""
    identity = _Identity(os.getpid(), _start_of(os.getpid()) or "0", _namespace(), _boot())
    return "-".join([*map(str, identity), secrets.token_hex(8)])


def pid_of(process_id: str) -> int | None:
    """Return a process's pid; None if the pid means another process here, in another pid namespace."""
    identity = _parse(process_id)
    known = identity is not None and identity.start != "0" and identity.namespace == _namespace() != "0"
    return identity.pid if identity is not None and known else None


def is_running(process_id: str) -> bool | None:
    """Return whether a process still runs; None if the kernel does not tell this process."""
    identity, pid = _parse(process_id), pid_of(process_id)
    if identity is None or pid is None:
        return None
    if identity.boot != _boot():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        pass
    start = _start_of(pid)
    return None if start is None else start == identity.start


def short_name(process_id: str) -> str:
    """Return the pid, for messages."""
    return process_id.partition("-")[0]


def _parse(process_id: str) -> _Identity | None:
    pid, *rest = process_id.split("-")
    if len(rest) != 4 or not (pid.isascii() and pid.isdigit()):
        return None
    return _Identity(int(pid), *rest[:3])


def _start_of(pid: int) -> str | None:
    """Return when a process started; "" if it has ended; None if this system does not tell."""
    try:
        if os.readlink(_PROC / "self") != str(os.getpid()):
            return None  # the pids in /proc are those of another namespace
        # The name of the program, in parentheses, may contain anything.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in _ENDED else fields[19]
    except (OSError, IndexError):
        return None


def _namespace() -> str:
    try:
        return f"{os.stat(_PROC / 'self/ns/pid').st_ino:x}"
    except OSError:
        return "0"


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().partition("-")[0]
    except OSError:
        return "0"
