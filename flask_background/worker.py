"""A worker of its own: processes that run durable items, and nothing else.

One process runs items itself. Several are forked before anything is opened; their parent passes TERM and INT
on, and starts another one for one that dies.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from types import FrameType
from typing import TYPE_CHECKING

from . import native

if TYPE_CHECKING:
    from .part import AppPart

# How often a worker looks whether a burst is over, and how soon a dead one is replaced (seconds).
_LOOK = 0.05
_REPLACE_AFTER = 0.5


def run_worker(
    part: AppPart, *, executors: Collection[str] = (), count: int = 1, burst: bool = False
) -> None:
    """Run items until TERM or INT, or, in a burst, until there are none. Raises JournalError."""
    part.runs_durable = True
    part.executors = frozenset(executors) or None
    if count == 1:
        _work(part, burst)
    else:
        _Parent(part, count, burst).run()


def _work(part: AppPart, burst: bool) -> None:
    """This process runs items. Once it is told to stop, the host waits for them as in every process."""

    def stop(signum: int, frame: FrameType | None) -> None:
        # From now on a signal ends the wait for the items: that is the host's to say.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    durable = part.durable
    while not (burst and durable.has_nothing_to_do()):
        native.sleep(_LOOK if burst else 3_600.0)
    part.backend.stop(None)


class _Parent:
    """Keeps so many children working. Opens nothing, and starts no thread."""

    def __init__(self, part: AppPart, count: int, burst: bool) -> None:
        self._part = part
        self._count = count
        self._burst = burst
        self._children: set[int] = set()
        self._stopping = False

    def run(self) -> None:
        """Until all have ended."""
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(signal.SIGINT, self._pass_on)
        for _ in range(self._count):
            self._start()
        while self._children:
            pid, status = os.wait()
            self._children.discard(pid)
            if status and not self._stopping:
                time.sleep(_REPLACE_AFTER)
                self._start()

    def _start(self) -> None:
        # A signal that came between the fork and the child's own handlers would be the parent's affair there.
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid:
            self._children.add(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            if self._stopping:
                os.kill(pid, signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        self._children.clear()
        _work(self._part, self._burst)
        raise SystemExit(0)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
