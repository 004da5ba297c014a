"""The host of the process: found at the first enqueue, one for all apps of the process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from flask_background.concurrency import hub, native
from flask_background.executors.patches import check_patches
from flask_background.hosts import gunicorn, process
from flask_background.hosts.base import Host
from flask_background.hosts.gunicorn_worker import find_worker
from flask_background.hosts.server_start import tell_when_serving
from flask_background.hosts.worker_start import tell_when_started

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

    from flask_background.hosts import server_start, worker_start

    class Starter(server_start.Starter, worker_start.Starter, Protocol):
        """An app that acts when its process has started to serve."""


_host: Host | None = None
_lock = native.new_lock()


def current() -> Host:
    """Return the host of this process."""
    global _host
    host = _host
    if host is not None and host.pid == os.getpid():
        return host
    with _lock:
        if _host is None or _host.pid != os.getpid():
            _host = detect()
        return _host


def detect() -> Host:
    """Return a new host: for gunicorn if this process is its worker, otherwise for an ordinary process."""
    worker = find_worker()
    if worker is not None:
        return gunicorn.GunicornHost(worker)
    return process.ProcessHost()


def adopt(worker: Worker) -> None:
    """Make this gunicorn worker the host of the process, whatever ``detect`` would find."""
    global _host
    with _lock:
        if _host is None or _host.pid != os.getpid():
            _host = gunicorn.GunicornHost(worker)


def prepare(starter: Starter, *, serves: bool) -> None:
    """Prepare the process before the first enqueue: handle TERM and HUP if this is the main thread.

    The starter is called when a gunicorn worker has loaded the app, or another web server serves it;
    ``serves`` says that this process is about to. Raises ConfigurationError if gevent has patched the process
    in a way that items cannot work with.
    """
    check_patches()
    hub.remember_main_hub()
    process.listen_for_stop(lambda: _host)
    tell_when_started(starter, lambda: _host)
    tell_when_serving(starter, serves=serves)


def _after_fork() -> None:
    global _lock
    _lock = native.new_lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
