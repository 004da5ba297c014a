"""The command ``flask background worker``: processes that run durable items, and nothing else.

A single worker runs items itself, unless it is the first process of a container. Several workers are forked
from a parent before anything is opened. The parent passes TERM and INT on, waits for orphans, and replaces a
worker that dies. Ctrl-C, and the TERM of systemd, go to all of these processes, so a worker gets the signal a
second time from its parent. The two count as one.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from flask.logging import default_handler

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.app_state import BackgroundState

# How often a worker checks whether a burst is over, and how soon a dead worker is replaced (seconds).
_LOOK = 0.05
_REPLACE_AFTER = 0.5
# How long the main thread sleeps at a time (seconds): if two signals come at once, the system may deliver
# both to another thread, and does not wake the main thread, which has to handle them.
_DOZE = 0.5
# Signals less than this after one another are the same press of a key (seconds).
_ONE_PRESS = 1.0
# From <sys/prctl.h>.
_PR_GET_CHILD_SUBREAPER = 37


def run_worker(
    state: BackgroundState, *, executors: Collection[str] = (), count: int = 1, burst: bool = False
) -> None:
    """Run items until TERM or INT, or, in a burst, until none is left. Raises JournalError."""
    state.runs_durable = True
    state.role = "worker"
    state.executors = frozenset(executors) or None
    if count == 1 and not _inherits_orphans():
        _work(state, burst)
    else:
        _Parent(state, count, burst).run()


def _inherits_orphans() -> bool:
    """Return whether this process has to reap orphans, as the first process of a container has to.

    A process that runs items must not: it would reap programs that its items wait for.
    """
    if os.getpid() == 1:
        return True
    is_reaper = ctypes.c_int(0)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return (
        prctl is not None
        and prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(is_reaper)) == 0
        and bool(is_reaper.value)
    )


def _work(state: BackgroundState, burst: bool, parent: int | None = None) -> None:
    """Run items in this process. When a signal stops it, the host waits for its items as in every process.

    ``parent``: the process that has forked this one; when the parent dies, this process stops, too.
    """
    presses = _Presses()

    def stop(signum: int, frame: FrameType | None) -> None:
        if not presses.is_new():
            return
        if presses.count == 1:
            _say(f"stops: {signal.Signals(signum).name}")
            raise SystemExit(0)
        raise KeyboardInterrupt  # this ends the wait for the items, which is the host's decision

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    durable = state.durable
    _show_items(state.app)
    _say(_introduction(state))
    _say(f"started: runs items of {', '.join(durable.session.executors)} from {state.folder}")
    maintenance = durable.maintenance
    if burst:
        maintenance.has_looked.wait()  # the items of a dead process have to be run, too
        maintenance.fires = False
    while not (burst and durable.claimer.has_nothing_to_do()):
        if parent is not None and os.getppid() != parent:
            _say(f"stops: its parent, process {parent}, has died")
            raise SystemExit(0)
        native.Latch().wait(_LOOK if burst else _DOZE)  # gevent's hub goes on meanwhile
    _say("stops: nothing is left to run")
    state.backend.stop(None)


def _introduction(state: BackgroundState) -> str:
    settings, registry = state.settings, state.registry
    ours = [(name, settings.executors[name].capacity) for name in state.durable.session.executors]
    return (
        f"is for the app {state.app.name!r}:"
        f" {', '.join(f'{count} at a time on {name}' for name, count in ours)};"
        f" {len(registry.tasks)} tasks, {len(registry.periodic)} periodic;"
        f" grace period {settings.grace_period:g} s"
    )


def _show_items(app: Flask) -> None:
    """Let the log show the end of each item, at INFO, unless the app has configured its log."""
    log = app.logger.getChild("background")
    root = logging.getLogger()
    is_configured = log.level or app.logger.level or root.handlers or root.level != logging.WARNING
    if not is_configured and app.logger.handlers in ([], [default_handler]):
        log.setLevel(logging.INFO)


def _say(what: str) -> None:
    """Print a line for the operator."""
    with suppress(OSError):  # stderr is closed
        os.write(2, f"Worker {os.getpid()} {what}\n".encode(errors="backslashreplace"))


class _Presses:
    """Counts the requests to stop."""

    def __init__(self) -> None:
        self.count = 0
        self._at = -math.inf

    def is_new(self) -> bool:
        """Return whether a signal that has just come is more than the second copy of the last one."""
        now = time.monotonic()
        if now - self._at < _ONE_PRESS:
            return False
        self._at = now  # before the rest, because another signal may come just here
        self.count += 1
        return True


class _Parent:
    """Keeps a number of children working. Opens nothing, and starts no thread."""

    def __init__(self, state: BackgroundState, count: int, burst: bool) -> None:
        self._state = state
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
            if pid not in self._children:
                continue  # an orphan, which the first process of a container inherits
            self._children.discard(pid)
            if status and not self._stopping:
                ended = os.waitstatus_to_exitcode(status)
                how = f"with exit status {ended}" if ended >= 0 else f"by signal {-ended}"
                _say(f"replaces worker {pid}, which has ended {how}")
                time.sleep(_REPLACE_AFTER)
                self._start()

    def _start(self) -> None:
        # Blocked, because a signal that comes between the fork and the child's own handlers would be handled
        # as in the parent.
        signals = {signal.SIGTERM, signal.SIGINT}
        parent = os.getpid()
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
        _work(self._state, self._burst, parent)
        raise SystemExit(0)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True
        if not self._presses.is_new():
            return
        for pid in tuple(self._children):
            with suppress(ProcessLookupError):  # it has been waited for at this very moment
                os.kill(pid, signal.SIGTERM)
