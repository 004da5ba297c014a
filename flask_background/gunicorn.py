"""A hook for gunicorn.conf.py; most apps do not need it.

A worker is found at its first item. The hook helps where that cannot work, as with a worker
class that is not gunicorn's own and runs the app outside of its main thread::

    # gunicorn.conf.py
    from flask_background.gunicorn import post_worker_init

    graceful_timeout = 91  # BACKGROUND_GRACE_PERIOD and one second
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_background import hosts

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

__all__ = ["post_worker_init"]


def post_worker_init(worker: Worker) -> None:
    """Hook this worker's exit now instead of at its first item. Starts no thread."""
    hosts.adopt(worker)
