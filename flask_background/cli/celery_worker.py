"""``flask background celery-worker``: Celery's own worker, with the Celery app of a Flask app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


def run_celery_worker(part: BackgroundState, options: Sequence[str]) -> int:
    """Run a worker until it is told to stop; returns its exit status. Raises ConfigurationError.

    ``options``: Celery's own, as on its command line.
    """
    from flask_background.celery import app as cluster
    from flask_background.celery.worker import bootstrap as worker  # with Celery, where it is installed

    celery = cluster.celery_of(part.app, part.settings)
    worker.join(part)  # BACKGROUND_BACKEND may be another one, and only a task name this
    return celery.start(argv=["worker", *options]) or 0
