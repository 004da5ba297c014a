"""The gunicorn worker of this process: how it is found, and what of it is relied on.

gunicorn documents its server hooks, and calls them in public. Everything else that this room relies on is in
the table below. If a version lacks an entry, the log says so once, and the host works without it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

#: Attributes of gunicorn that are neither documented nor hooks, seen in 22.0 to 27.0.1, and their purpose.
RELIED_ON = {
    "worker.alive": "tells that the stop has begun; no signal comes with max_requests",
    "worker.ppid": "tells that the master has gone",
    "worker.pid": "distinguishes a worker from its copy in a forked child",
    "worker.nr": "counts the requests, for a delayed recycle",
    "worker.max_requests": "delays a recycle",
    "worker.age": "numbers the workers of a master, which tells that one follows another",
    "worker.tmp": "the heartbeat file: the master reads its modification time, a monotonic one",
    "worker.handle": "serves a connection: distinguishes a hanging request from a computing item",
    "arbiter.spawn_worker": "has the worker in its variable `worker`, wherever signal handlers were replaced",
}
#: Further attributes of gthread: the places where a worker that was told to QUIT leaves idle connections and
#: finished requests. Without them a client keeps its idle connection until the items are done. gunicorn 22
#: and 23 called ``keepalived_conns`` ``_keep``, and had no ``pending_conns``.
GTHREAD_IDLE = ("keepalived_conns", "pending_conns", "_keep")
GTHREAD_FINISHED = "method_queue"


def find_worker() -> Worker | None:
    """Return the gunicorn worker of this process, or None. Works on any thread."""
    base = sys.modules.get("gunicorn.workers.base")
    if base is None:
        return None
    # gunicorn's handlers are methods of the worker; an app may have replaced some of them.
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
    """Return the worker of the main thread, from the frame of the function that forked the process."""
    arbiter = sys.modules.get("gunicorn.arbiter")
    main = threading.main_thread().ident
    if arbiter is None or main is None:
        return None
    spawn_worker = code_of(arbiter.Arbiter, "spawn_worker")
    frame = sys._current_frames().get(main)
    while frame is not None:
        if frame.f_code is spawn_worker:
            return frame.f_locals.get("worker")
        frame = frame.f_back
    return None


def missing(worker: Worker) -> list[str]:
    """Return the entries of the table that this version of gunicorn lacks."""
    from gunicorn.arbiter import Arbiter

    owners = {"worker": worker, "arbiter": Arbiter}
    names = (entry.split(".") for entry in RELIED_ON)
    return [f"{owner}.{name}" for owner, name in names if not hasattr(owners[owner], name)]


def follows_another(worker: Worker) -> bool:
    """Return whether a worker replaces another one, which may still run: after HUP, USR2 or a recycle."""
    # After USR2 the new master has the pid of the old one in its environment.
    return getattr(worker, "age", 0) > worker.cfg.workers or "GUNICORN_PID" in os.environ


class Heartbeat:
    """The heartbeat file of a worker, which stays usable when gunicorn has closed it."""

    def __init__(self, worker: Worker) -> None:
        try:
            self._descriptor = os.dup(worker.tmp.fileno())
        except (OSError, ValueError, AttributeError):
            self._descriptor = -1  # gunicorn has closed the file: the worker is about to exit

    def beat(self) -> None:
        """Touch the file, which shows the master that the worker is alive."""
        if self._descriptor != -1:
            now = time.monotonic()
            os.utime(self._descriptor, (now, now))


def code_of(owner: type, name: str) -> CodeType | None:
    """Return the code of a function or method; None if the owner has no such one."""
    return getattr(getattr(owner, name, None), "__code__", None)


def file_of(thing: Any) -> tuple[int, int] | None:
    """Return the device and inode of an open file, or None."""
    try:
        stat = os.fstat(thing.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return stat.st_dev, stat.st_ino
