"""The start of a gunicorn worker, at which an app looks for items that other processes left.

No line in gunicorn.conf.py is needed: gunicorn calls ``post_worker_init`` when the app is loaded, and takes
it from the configuration, which after the fork is the worker's own. An app that a worker loads finds that
worker; an app that the master has preloaded finds its worker right after the fork, on the stack of the
master's code.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from flask_background.concurrency import hub
from flask_background.hosts.base import Host
from flask_background.hosts.gunicorn_signals import hear_quit
from flask_background.hosts.gunicorn_worker import find_worker, follows_another, worker_on_stack

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker


class Starter(Protocol):
    """An app that acts when its worker starts. ``follows``: it replaces a worker that may still run."""

    def worker_started(self, *, follows: bool) -> None: ...


_starters: weakref.WeakSet[Starter] = weakref.WeakSet()
_host: Callable[[], Host | None] = lambda: None  # noqa: E731


def tell_when_started(starter: Starter, host: Callable[[], Host | None]) -> None:
    """Call ``starter.worker_started()`` in each gunicorn worker when its app is loaded.

    ``host`` returns the host of the process, or None before its first item.
    """
    global _host
    first = not _starters
    _starters.add(starter)
    _host = host
    worker = find_worker()
    if worker is not None and first:
        _arm(worker)


def _arm(worker: Worker) -> None:
    users: Callable[[Worker], object] = worker.cfg.post_worker_init

    def post_worker_init(worker: Worker) -> None:
        users(worker)
        hub.remember_main_hub()  # gevent patches a worker after its master has loaded the app
        hear_quit(worker, _host)
        for starter in tuple(_starters):
            starter.worker_started(follows=follows_another(worker))

    worker.cfg.set("post_worker_init", post_worker_init)


def _after_fork() -> None:
    if _starters and (worker := worker_on_stack()) is not None:
        _arm(worker)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
