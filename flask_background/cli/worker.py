"""The command ``flask background worker``: processes that run durable items, and nothing else.

A single process runs items itself. Several are forked before anything is opened. Their parent passes
TERM and INT on, and replaces a child that dies. A signal to all processes, such as Ctrl-C or systemd's TERM,
reaches a child twice, because the parent passes it on, too. The child counts it once.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState

# How often a worker checks whether a burst is over, and how soon a dead one is replaced (seconds).
_LOOK = 0.05
_REPLACE_AFTER = 0.5
# How long the main thread sleeps at a time (seconds): if two signals come at once, the system may deliver
# both to another thread, and does not wake the main thread, which has to handle them.
_DOZE = 0.5
# Signals less than this after one another are the same press of a key (seconds).
_ONE_PRESS = 1.0


def run_worker(
    part: BackgroundState, *, executors: Collection[str] = (), count: int = 1, burst: bool = False
) -> None:
    """Run items until TERM or INT, or, in a burst, until none is left. Raises JournalError."""
    part.runs_durable = True
    part.executors = frozenset(executors) or None
    if count == 1:
        _work(part, burst)
    else:
        _Parent(part, count, burst).run()


def _work(part: BackgroundState, burst: bool) -> None:
    """Run items in this process. Once it is told to stop, the host waits for them as in every process."""

    presses = _Presses()

    def stop(signum: int, frame: FrameType | None) -> None:
        if not presses.is_new():
            return
        if presses.count == 1:
            raise SystemExit(0)
        raise KeyboardInterrupt  # this ends the wait for the items, which is the host's decision

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    durable = part.durable
    if burst:
        durable.maintenance.has_looked.wait()  # the items of a dead process have to be run, too
    while not (burst and durable.claimer.has_nothing_to_do()):
        native.Latch().wait(_LOOK if burst else _DOZE)  # gevent's hub goes on meanwhile
    part.backend.stop(None)


class _Presses:
    """Counts the requests to stop."""

    def __init__(self) -> None:
        self.count = 0
        self._at = -math.inf

    def is_new(self) -> bool:
        """Return whether a signal that has just come is not the echo of the last one."""
        now = time.monotonic()
        if now - self._at < _ONE_PRESS:
            return False
        self._at = now  # first, for another signal may come just here
        self.count += 1
        return True


class _Parent:
    """Keeps a number of children working. Opens nothing, and starts no thread."""

    def __init__(self, part: BackgroundState, count: int, burst: bool) -> None:
        self._part = part
        self._count = count
        self._burst = burst
        self._children: set[int] = set()
        self._stopping = False
        self._presses = _Presses()

    def run(self) -> None:
        """Keep the children running until all have ended."""
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
        # The child must not handle a signal that comes between the fork and its own handlers as the parent
        # would.
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
        if not self._presses.is_new():
            return
        for pid in tuple(self._children):
            with suppress(ProcessLookupError):  # it has been waited for at this very moment
                os.kill(pid, signal.SIGTERM)
