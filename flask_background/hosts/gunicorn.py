"""gunicorn: finds the worker that this process is, waits in its exit, and keeps its heart beating meanwhile.

No line in gunicorn.conf.py is needed: the worker's own configuration object, which after the fork is this
process's alone, gets hooks around the user's. gunicorn calls ``worker_exit`` when the requests are over,
whatever ended the worker, and before the interpreter shuts down. A second signal may raise SystemExit just
before that call; then the interpreter's shutdown waits for the items. gunicorn has closed the worker's
heartbeat file by then, so the host opens a second descriptor of that file at the beginning.

gunicorn documents its server hooks, and calls them in public. All else that this room relies on is in the
table below. Where a version lacks an entry, the log says so once, and the host does without it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import hub, native
from flask_background.hosts.base import Drainable, Host

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

#: What is neither documented nor offered as a hook, seen in gunicorn 22.0 to 27.0.1, and why it is used.
RELIED_ON = {
    "worker.alive": "tells that the stop has begun; no signal comes with max_requests",
    "worker.ppid": "tells that the master has gone",
    "worker.pid": "tells a worker from a copy of it in a forked child",
    "worker.nr": "counts the requests, for a recycle that was put off",
    "worker.max_requests": "puts a recycle off",
    "worker.tmp": "the heartbeat file: the master reads its modification time, a monotonic one",
    "worker.handle": "serves a connection: tells a request that hangs from an item that computes",
    "arbiter.spawn_worker": "has the worker in its variable `worker`, wherever signal handlers were replaced",
}
#: The same of gthread alone: where a worker that was told to QUIT leaves idle connections and finished
#: requests. Without these, a client keeps its idle connection until the items are done.
#: ``_keep`` is what ``keepalived_conns`` was called in gunicorn 22 and 23, which had no ``pending_conns``.
GTHREAD_IDLE = ("keepalived_conns", "pending_conns", "_keep")
GTHREAD_FINISHED = "method_queue"

# gunicorn kills when its graceful_timeout is over; by so many seconds before that all has to be on record.
_MARGIN = 1.0
_BEAT = 0.05
# How often the heart beats for an item that computes (seconds): gunicorn's shortest timeout is 1 s.
_SERVING_BEAT = 0.4
# For how long the interpreter may take to end when items had to be left behind (threads are joined there,
# without limit), in seconds.
_EXIT_WITHIN = 0.15
# INT and QUIT less than this apart are one Ctrl-C: a worker gets one itself and the other from its master.
_ONE_PRESS = 1.0


def find_worker() -> Worker | None:
    """The gunicorn worker that this process is, if it is one. Works on any thread."""
    base = sys.modules.get("gunicorn.workers.base")
    if base is None:
        return None
    # Every handler that gunicorn has set is a method of the worker; an app may have replaced some.
    handlers = map(signal.getsignal, (signal.SIGTERM, signal.SIGABRT, signal.SIGUSR1, signal.SIGQUIT))
    owners = (getattr(handler, "__self__", None) for handler in handlers)
    found = next((owner for owner in owners if isinstance(owner, base.Worker)), None)
    if found is None:
        found = worker_on_stack()
    if not isinstance(found, base.Worker) or found.pid != os.getpid():
        return None
    worker: Worker = found
    return worker


def worker_on_stack() -> Any:
    """The worker that the main thread was started for, from the frame of the function that forked it."""
    arbiter = sys.modules.get("gunicorn.arbiter")
    main = threading.main_thread().ident
    if arbiter is None or main is None:
        return None
    spawn_worker = _code_of(arbiter.Arbiter, "spawn_worker")
    frame = sys._current_frames().get(main)
    while frame is not None:
        if frame.f_code is spawn_worker:
            return frame.f_locals.get("worker")
        frame = frame.f_back
    return None


def missing(worker: Worker) -> list[str]:
    """The entries of the table that this version of gunicorn lacks."""
    from gunicorn.arbiter import Arbiter

    owners = {"worker": worker, "arbiter": Arbiter}
    names = (entry.split(".") for entry in RELIED_ON)
    return [f"{owner}.{name}" for owner, name in names if not hasattr(owners[owner], name)]


class Heartbeat:
    """Touches a worker's heartbeat file, also when gunicorn has closed it."""

    def __init__(self, worker: Worker) -> None:
        try:
            self._descriptor = os.dup(worker.tmp.fileno())
        except (OSError, ValueError, AttributeError):
            self._descriptor = -1  # gunicorn has closed the file: the worker is about to exit

    def beat(self) -> None:
        """Show the master that the worker lives."""
        if self._descriptor != -1:
            now = time.monotonic()
            os.utime(self._descriptor, (now, now))


class GunicornHost(Host):
    """A gunicorn worker."""

    how_to_cut = "; one more INT or QUIT (Ctrl-C) ends the wait"

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.graceful_timeout = float(worker.cfg.graceful_timeout)
        self.allowance = max(0.0, self.graceful_timeout - _MARGIN)
        self._worker = worker
        self._heart = Heartbeat(worker)
        self._missing = missing(worker)
        self._pressed: dict[int | None, float] = {}
        self._left_at: float | None = None
        self._heart_beats = False
        self._beaten_at = -math.inf
        self._hub_asked_at: float | None = None
        # gunicorn may have closed its pipe when it comes to the drain, and the descriptor be another file's.
        self._finished = _file_of(getattr(worker, GTHREAD_FINISHED, None))
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
        """Beat for an item on a greenlet that computes, and lets gunicorn's own greenlet not beat."""
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
        """Beat while items have time, and end the process if the main thread does not come to that."""
        while True:
            if self.is_idle():
                pass  # gunicorn's own rules hold
            elif self._left_at is not None:
                if time.monotonic() - self._left_at > _EXIT_WITHIN:
                    os._exit(0)
            elif not self.is_up(late=_MARGIN):
                self._heart.beat()
            if self.is_up(late=_EXIT_WITHIN) and not self.is_idle() and self._is_held_up():
                os._exit(0)
            native.sleep(_BEAT)

    def _is_held_up(self) -> bool:
        """Whether something that is no request keeps the main thread from its greenlets."""
        if not native.is_patched():
            return False
        now = time.monotonic()
        if self._hub_asked_at is None:
            self._hub_asked_at = now
            hub.call_soon(self._hub_answers)
        return now - self._hub_asked_at > _EXIT_WITHIN and (
            _code_of(type(self._worker), "handle") not in _codes_of_main_thread()
        )

    def _hub_answers(self) -> None:
        self._hub_asked_at = None

    def drain(self) -> None:
        super().drain()
        self._left_at = self._left_at or time.monotonic()

    def while_draining(self) -> None:
        """Let go of connections: nobody serves them any more, and a client must not wait for our items."""
        worker = self._worker
        queue = getattr(worker, GTHREAD_FINISHED, None)
        if queue is not None and self._finished is not None and self._finished == _file_of(queue):
            queue.run_callbacks(None)
        for name in GTHREAD_IDLE:
            for connection in tuple(getattr(worker, name, ())):
                connection.close()

    def interrupted(self) -> None:
        self.press(None)

    def press(self, sig: int | None) -> bool:
        """INT or QUIT has come, and the second one ends the wait. Returns whether this is the first one.

        Fit for a signal handler.
        """
        now = time.monotonic()
        first = not self._pressed
        again = sig in self._pressed or any(now - when > _ONE_PRESS for when in self._pressed.values())
        began = self._began
        if again or (began is not None and now - began > _ONE_PRESS):
            self.cut()
        self._pressed[sig] = now
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
        """Recycle by ``max_requests`` only when no item is in flight, or at twice the setting.

        The replacement starts when this worker has exited, so waiting for items then would be an outage.
        gunicorn decides before it calls the view, which may enqueue: so the decision is moved behind it.
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


def _code_of(owner: type, name: str) -> CodeType | None:
    return getattr(getattr(owner, name, None), "__code__", None)


def _file_of(thing: Any) -> tuple[int, int] | None:
    """Which file it has open."""
    try:
        stat = os.fstat(thing.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _codes_of_main_thread() -> set[CodeType]:
    """What the main thread is in the middle of: under gevent, the greenlet that runs."""
    codes: set[CodeType] = set()
    try:
        frame: FrameType | None = sys._current_frames().get(hub.main_hub().thread_ident)
    except RuntimeError:
        return codes  # no greenlet has had an item yet
    while frame is not None:
        codes.add(frame.f_code)
        frame = frame.f_back
    return codes
