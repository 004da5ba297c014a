"""The record of children: one line for each event, appended in one call, so that no kill can tear it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Mark(NamedTuple):
    """Something happened.

    ``ack``: the fact is promised to be on the disk. ``drop``: it is not any more. ``nack``: it was refused.
    ``begin`` and ``end``: of a run of an item. ``done``: its outcome is on record. ``took``: so many seconds
    for a call. ``ready``: the process listens to signals. ``kill``: it is about to be killed.
    """

    kind: str
    what: str
    #: Who says so: a process's id, or the number that it was given, as ids come again in a long storm.
    who: int
    #: time.monotonic(), which all processes share.
    at: float


class Record:
    """The file. Several processes and threads may write at once."""

    def __init__(self, path: Path, who: int | None = None) -> None:
        self.who = who or os.getpid()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def mark(self, kind: str, what: str, who: int | None = None) -> float:
        """Note that it happens, and return when."""
        now = time.monotonic()
        line = f"{kind} {what} {who or self.who} {now:.6f}\n".encode()
        assert os.write(self._file, line) == len(line)
        return now

    def close(self) -> None:
        """No more marks."""
        os.close(self._file)


def marks(text: bytes) -> Iterator[Mark]:
    """Read them."""
    for line in text.decode().splitlines():
        kind, what, who, at = line.split(" ")
        yield Mark(kind, what, int(who), float(at))
