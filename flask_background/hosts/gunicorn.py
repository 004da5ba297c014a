"""The gunicorn host: finds this process's worker, waits in its exit, and keeps its heart beating.

No line in gunicorn.conf.py is needed: the worker's configuration object, which after the fork belongs to this
process alone, gets hooks around the user's. gunicorn calls ``worker_exit`` when the requests are over,
whatever ended the worker, and before the interpreter shuts down. A second signal may raise SystemExit just
before that call; then the interpreter's shutdown waits for the items. By that time gunicorn has closed the
worker's heartbeat file, so the host opens a second descriptor of that file at the beginning.
"""

from __future__ import annotations

import math
import os
import sys
import time
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import hub, native
from flask_background.hosts.base import Drainable, Host
from flask_background.hosts.gunicorn_worker import (
    GTHREAD_FINISHED,
    GTHREAD_IDLE,
    Heartbeat,
    code_of,
    file_of,
    missing,
)

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

# gunicorn kills a worker when its graceful_timeout is over. Everything has to be on record this many seconds
# earlier.
_MARGIN = 1.0
_BEAT = 0.05
# How often the heart beats for a computing item (seconds); gunicorn's shortest timeout is 1 s.
_SERVING_BEAT = 0.4
# How long the interpreter may take to end when items were left behind, in seconds. The interpreter would join
# threads without limit.
_EXIT_WITHIN = 0.15
# An INT and a QUIT less than this apart (seconds) are one Ctrl-C: the worker gets one of them from the
# terminal and the other from its master.
_ONE_PRESS = 1.0
# A first INT or QUIT this long after the stop has begun (seconds) is not of the signal that began it, such as
# TERM. gunicorn kills the worker 2 s later.
_ANOTHER = 0.2


class GunicornHost(Host):
    """The host of a gunicorn worker."""

    role = "gunicorn worker"
    how_to_cut = "; one more INT or QUIT (Ctrl-C) ends the wait"

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.graceful_timeout = float(worker.cfg.graceful_timeout)
        self.allowance = max(0.0, self.graceful_timeout - _MARGIN)
        self._worker = worker
        self._heart = Heartbeat(worker)
        self._missing = missing(worker)
        self._pressed: dict[int | None, float] = {}
        self._quits = False
        self._left_at: float | None = None
        self._heart_beats = False
        self._beaten_at = -math.inf
        self._hub_asked_at: float | None = None
        # Stored now: at the time of the drain gunicorn may have closed its pipe, and the descriptor may be
        # another file's.
        self._finished = file_of(getattr(worker, GTHREAD_FINISHED, None))
        self._hook_exit()
        if worker.cfg.max_requests > 0:
            self._put_off_recycle()

    def add(self, backend: Drainable) -> None:
        super().add(backend)
        if self._missing:
            backend.log_warning(
                f"This version of gunicorn has no {', '.join(self._missing)}, so items may get less time when"
                " a worker stops. Report it to Flask-Background, and use an older gunicorn until then"
            )
            self._missing = []
        grace = backend.grace
        if self.graceful_timeout < grace:
            backend.log_warning(
                f"BACKGROUND_GRACE_PERIOD is {grace:g} s, but gunicorn may kill a worker"
                f" {self.graceful_timeout:g} s after it was told to stop (graceful_timeout), so items can be"
                f" sure of {self.allowance:g} s only. Start gunicorn with --graceful-timeout"
                f" {math.ceil(grace + _MARGIN):g}, or set BACKGROUND_GRACE_PERIOD to {self.allowance:g}"
            )

    def is_stopping(self) -> bool:
        worker = self._worker
        return not getattr(worker, "alive", True) or getattr(worker, "ppid", os.getppid()) != os.getppid()

    def while_serving(self) -> None:
        """Beat for an item whose greenlet computes, and so keeps gunicorn's greenlet from beating."""
        if native.is_patched() and time.monotonic() - self._beaten_at > _SERVING_BEAT:
            self._beaten_at = time.monotonic()
            from flask_background.executors.greenlets import CODES

            if CODES & _codes_of_main_thread():
                self._heart.beat()

    def sustain(self) -> None:
        if not self._heart_beats:
            self._heart_beats = True
            native.start_thread(self._beat, "background-heart")

    def _beat(self) -> None:
        """Beat while items have time, and end the process if the main thread does not."""
        while True:
            if self.is_idle():
                pass  # gunicorn's own rules apply
            elif self._left_at is not None:
                if time.monotonic() - self._left_at > _EXIT_WITHIN:
                    os._exit(0)
            elif not self.is_up(late=_MARGIN):
                self._heart.beat()
            if self.is_up(late=_EXIT_WITHIN) and not self.is_idle() and self._is_held_up():
                os._exit(0)
            native.sleep(_BEAT)

    def _is_held_up(self) -> bool:
        """Return whether other code than a request keeps the main thread from its greenlets."""
        if not native.is_patched():
            return False
        now = time.monotonic()
        if self._hub_asked_at is None:
            self._hub_asked_at = now
            hub.call_soon(self._hub_answers)
        return now - self._hub_asked_at > _EXIT_WITHIN and (
            code_of(type(self._worker), "handle") not in _codes_of_main_thread()
        )

    def _hub_answers(self) -> None:
        self._hub_asked_at = None

    def drain(self) -> None:
        super().drain()
        self._left_at = self._left_at or time.monotonic()

    def while_draining(self) -> None:
        """Close idle connections, which are no longer served: their clients must not wait for our items."""
        worker = self._worker
        queue = getattr(worker, GTHREAD_FINISHED, None)
        if queue is not None and self._finished is not None and self._finished == file_of(queue):
            queue.run_callbacks(None)
        for name in GTHREAD_IDLE:
            for connection in tuple(getattr(worker, name, ())):
                connection.close()

    def interrupted(self) -> None:
        self.press(None)

    def press(self, sig: int | None) -> None:
        """Count INT or QUIT: the second one ends the wait. Safe in a signal handler, also inside itself."""
        now = time.monotonic()
        again = sig in self._pressed or any(now - when > _ONE_PRESS for when in (*self._pressed.values(),))
        began, late = self._began, _ONE_PRESS if self._pressed else _ANOTHER
        if again or (began is not None and now - began > late):
            self.cut()
        self._pressed[sig] = now

    def quits_now(self) -> bool:
        """Return True once: for the signal that gunicorn's own handler gets."""
        first, self._quits = not self._quits, True
        return first

    @property
    def has_arrived(self) -> bool:
        """Whether the main thread waits for the items, or has done so."""
        return self._arrived

    def _hook_exit(self) -> None:
        cfg = self._worker.cfg
        users_exit = cfg.worker_exit

        def worker_exit(arbiter: Any, worker: Worker) -> None:
            if os.getpid() == self.pid:
                self.drain()
            users_exit(arbiter, worker)

        cfg.set("worker_exit", worker_exit)

    def _put_off_recycle(self) -> None:
        """Delay a recycle by ``max_requests`` until no item is in flight, or until twice the setting.

        gunicorn starts the replacement when this worker has exited, so waiting for items then would be an
        outage. gunicorn decides before it calls the view, but the view may enqueue an item; so the decision
        is made after the view.
        """
        worker, cfg = self._worker, self._worker.cfg
        if {"worker.nr", "worker.max_requests", "worker.alive"} & {*self._missing}:
            return
        limit = worker.max_requests
        users_post_request = cfg.post_request
        worker.max_requests = 2 * limit

        def post_request(worker: Worker, request: Any, environ: Any, response: Any) -> None:
            users_post_request(worker, request, environ, response)
            if worker.nr >= limit and worker.alive and self.is_idle():
                worker.log.info("Autorestarting worker: max_requests reached, no items in flight.")
                worker.alive = False

        cfg.set("post_request", post_request)


def _codes_of_main_thread() -> set[CodeType]:
    """Return the code objects of the main thread's call stack; under gevent, of the current greenlet."""
    codes: set[CodeType] = set()
    try:
        frame: FrameType | None = sys._current_frames().get(hub.main_hub().thread_ident)
    except RuntimeError:
        return codes  # no greenlet has run an item yet
    while frame is not None:
        codes.add(frame.f_code)
        frame = frame.f_back
    return codes
