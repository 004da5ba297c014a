"""The loads of processes, told on request: ``loads/<id>`` says what a process has in memory.

A process that wants to know changes the time of the file ``loads/asked``, and asks all processes through
their FIFOs. Each of them then writes its load once. So nothing is written while nobody asks.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask_background.durable.journal import wakeups

_ASKED = "asked"


def _folder_of(owners: Path) -> Path:
    # Not the folder of the processes' own files: its time changes with each new file, and processes that wake
    # others list it again whenever its time has changed.
    return owners.with_name("loads")


class LoadFile:
    """The load file of one process. ``owners``: the folder of the processes' own files."""

    def __init__(self, owners: Path, process_id: str) -> None:
        folder = _folder_of(owners)
        self._asked = str(folder / _ASKED)
        self._path = folder / process_id

    def answer(self, load: dict[str, Any]) -> None:
        """Write the load, as the answer to the last request. Raises OSError."""
        stamp = os.stat(self._asked).st_mtime_ns
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({**load, "stamp": stamp, "at": time.time()}))
        new.rename(self._path)


def ask(owners: Path, process_id: str) -> int:
    """Ask all other processes for their loads; return the number of the request. Raises OSError."""
    folder = _folder_of(owners)
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = time.time_ns()
    os.close(os.open(folder / _ASKED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.utime(folder / _ASKED, ns=(stamp, stamp))
    stamp = os.stat(folder / _ASKED).st_mtime_ns  # some file systems round the time
    wakeups.wake_all(owners, but=process_id, why=wakeups.LOAD)
    return stamp


def read(owners: Path, process_id: str) -> dict[str, Any] | None:
    """Return the last load that a process has told, with its ``stamp`` and time; None if it has told none."""
    try:
        found = json.loads((_folder_of(owners) / process_id).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def forget(owners: Path, process_id: str) -> None:
    """Remove the load of a process that has ended."""
    for suffix in ("", ".new"):
        (_folder_of(owners) / f"{process_id}{suffix}").unlink(missing_ok=True)


def sweep(owners: Path) -> None:
    """Remove the loads of processes that have no file."""
    with suppress(FileNotFoundError):
        for name in os.listdir(_folder_of(owners)):
            process_id = name.removesuffix(".new")
            if name != _ASKED and not (owners / process_id).exists():
                forget(owners, process_id)
