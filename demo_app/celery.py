"""For ``celery -A demo_app.celery worker``, with the settings in the environment: see ``on_celery``."""

from __future__ import annotations

from . import create_app

celery_app = create_app().extensions["celery"]
