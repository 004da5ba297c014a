"""``flask background celery-worker``: Celery's own worker, with the Celery app of a Flask app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


def run_celery_worker(state: BackgroundState, options: Sequence[str]) -> int:
    """Run a worker until it is told to stop; return its exit status. Raises ConfigurationError.

    ``options``: Celery's own, as on its command line. Unless they or the app's settings say otherwise, this
    worker takes no more messages than it runs.
    """
    from flask_background.celery.app import celery_of, explicit_settings
    from flask_background.celery.worker.bootstrap import join  # imports Celery, where it is installed

    celery = celery_of(state.app, state.settings)
    join(state)  # also if no setting and no task names Celery
    is_told = "worker_prefetch_multiplier" in explicit_settings(celery)
    prefetch = [] if is_told else ["--prefetch-multiplier", "1"]
    return celery.start(argv=["worker", *prefetch, *options]) or 0
