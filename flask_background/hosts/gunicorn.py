"""gunicorn: finds the worker that this process is, waits in its exit, and keeps its heart beating meanwhile.

No line in gunicorn.conf.py is needed: the worker's own configuration object, which after the fork is this
process's alone, gets hooks around the user's. ``worker_exit`` runs when requests are over, whatever ended the
worker, and before the interpreter shuts down (a second signal may raise SystemExit just before it, and then
that shutdown is where items are waited for). By then gunicorn has closed the file whose timestamp shows that
the worker lives, so a copy of it is made at the beginning.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.hosts.base import Drainable, Host

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker
    from gunicorn.workers.workertmp import WorkerTmp


# gunicorn kills when its graceful_timeout is over; by so many seconds before that all has to be on record.
_MARGIN = 1.0
_BEAT = 0.05
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
    """Where all have been replaced: the main thread was started by ``spawn_worker``."""
    main = threading.main_thread().ident
    frame = None if main is None else sys._current_frames().get(main)
    while frame is not None:
        if frame.f_code.co_name == "spawn_worker":
            return frame.f_locals.get("worker")
        frame = frame.f_back
    return None


class GunicornHost(Host):
    """A gunicorn worker."""

    how_to_cut = "; one more INT or QUIT (Ctrl-C) ends the wait"

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.graceful_timeout = float(worker.cfg.graceful_timeout)
        self.allowance = max(0.0, self.graceful_timeout - _MARGIN)
        self._worker = worker
        self._pulse = _copy_of(worker.tmp)
        self._pressed: dict[int | None, float] = {}
        self._left_at: float | None = None
        self._heart_beats = False
        self._hook()
        if (pool := getattr(worker, "tpool", None)) is not None:
            # gthread's handler of INT and QUIT shuts its pool down, which takes this lock. If the signal
            # comes while the main thread holds it, an ordinary lock would never be free again.
            vars(pool)["_shutdown_lock"] = threading.RLock()
        if worker.cfg.max_requests > 0:
            self._put_off_recycle()

    def add(self, backend: Drainable) -> None:
        super().add(backend)
        grace = backend.grace
        if self.graceful_timeout < grace:
            backend.log_warning(
                f"BACKGROUND_GRACE_PERIOD is {grace:g} s, but gunicorn may kill a worker"
                f" {self.graceful_timeout:g} s after it was told to stop (graceful_timeout), so items can be"
                f" sure of {self.allowance:g} s only. Start gunicorn with --graceful-timeout"
                f" {math.ceil(grace + _MARGIN):g}, or set BACKGROUND_GRACE_PERIOD to {self.allowance:g}"
            )

    def is_stopping(self) -> bool:
        return not self._worker.alive or self._worker.ppid != os.getppid()

    def sustain(self) -> None:
        if not self._heart_beats:
            self._heart_beats = True
            native.start_thread(self._beat, "background-heart")

    def _beat(self) -> None:
        """Beat while items have time, and end the process if the interpreter does not."""
        while True:
            if self.is_idle():
                pass  # gunicorn's own rules hold
            elif self._left_at is not None:
                if time.monotonic() - self._left_at > _EXIT_WITHIN:
                    os._exit(0)
            elif self._pulse is not None and not self.is_up(late=_MARGIN):
                self._pulse.notify()
            native.sleep(_BEAT)

    def drain(self) -> None:
        self._let_connections_go()
        super().drain()
        self._left_at = self._left_at or time.monotonic()

    def _let_connections_go(self) -> None:
        """Nobody serves them any more: who keeps one for a next request must not wait for our items."""
        worker = self._worker

        def close() -> None:
            for name in ("keepalived_conns", "pending_conns", "_keep"):  # the last one in gunicorn 22 and 23
                for connection in tuple(getattr(worker, name, ())):
                    connection.close()

        def finish(callback: Callable[..., object], *args: Any) -> None:
            callback(*args)
            close()

        if (finished := getattr(worker, "method_queue", None)) is not None:
            # gthread's threads leave a connection whose request is over to the main thread, which is here.
            vars(finished)["defer"] = finish
            finished.run_callbacks(None)
        close()

    def _hook(self) -> None:
        cfg = self._worker.cfg
        users_exit, users_int = cfg.worker_exit, cfg.worker_int

        def worker_exit(arbiter: Any, worker: Worker) -> None:
            if os.getpid() == self.pid:
                self.drain()
            users_exit(arbiter, worker)

        def worker_int(worker: Worker) -> None:
            self._press_all()
            if threading.current_thread() is threading.main_thread():
                # gunicorn's handler has done its part. Once more, it would raise SystemExit wherever the main
                # thread is by then, between gunicorn and our drain too.
                signal.signal(signal.SIGINT, self._press)
                signal.signal(signal.SIGQUIT, self._press)
            users_int(worker)

        cfg.set("worker_exit", worker_exit)
        cfg.set("worker_int", worker_int)

    def _press_all(self) -> None:
        """Called below gunicorn's handler, whose argument tells which signal it was.

        That may have come while the handler was at work for another, and will raise SystemExit through it.
        """
        frame: FrameType | None = sys._getframe(2)
        self._press(frame.f_locals.get("sig") if frame else None)
        while frame is not None:
            if frame.f_code.co_name == "handle_quit":
                self._pressed.setdefault(frame.f_locals.get("sig"), time.monotonic())
            frame = frame.f_back

    def _press(self, sig: int | None, _frame: FrameType | None = None) -> None:
        """Ctrl-C, or something like it; the second one ends the wait."""
        now = time.monotonic()
        again = sig in self._pressed or any(now - when > _ONE_PRESS for when in self._pressed.values())
        began = self._began
        if again or (began is not None and now - began > _ONE_PRESS):
            self.cut()
        self._pressed[sig] = now

    def _put_off_recycle(self) -> None:
        """Recycle by ``max_requests`` only when no item is in flight, or at twice the setting.

        The replacement starts when this worker has exited, so waiting for items then would be an outage.
        gunicorn decides before it calls the view, which may enqueue: so the decision is moved behind it.
        """
        worker, cfg = self._worker, self._worker.cfg
        limit = worker.max_requests
        users_post_request = cfg.post_request
        worker.max_requests = 2 * limit

        def post_request(worker: Worker, request: Any, environ: Any, response: Any) -> None:
            users_post_request(worker, request, environ, response)
            if worker.nr >= limit and worker.alive and self.is_idle():
                worker.log.info("Autorestarting worker: max_requests reached, no items in flight.")
                worker.alive = False

        cfg.set("post_request", post_request)


def _copy_of(tmp: WorkerTmp) -> WorkerTmp | None:
    """The worker's heartbeat file under a descriptor of its own, with gunicorn's own way of touching it."""
    try:
        descriptor = os.dup(tmp.fileno())
    except (OSError, ValueError):
        return None  # gunicorn has closed it: the worker is about to exit
    pulse = copy.copy(tmp)
    vars(pulse)["_tmp"] = os.fdopen(descriptor, "w+b", 0)
    return pulse
