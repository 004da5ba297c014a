"""The module that ``celery -A tests.celery.celery_app worker`` loads, and ``flask --app``, too."""

from flask_background.cli.commands import background

from .shop import create_app

flask_app = create_app()
flask_app.cli.add_command(background)  # as the installed package does it
celery_app = flask_app.extensions["celery"]
