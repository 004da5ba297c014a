"""The demo of Flask-Background: a page for each thing that it does, with the code beside it.

Start it with ``gunicorn -c demo_app/gunicorn.conf.py`` from the folder above this one.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from flask import Flask

from flask_background.dashboard import create_status

from . import (
    config,
    cpu,
    gallery,
    grace,
    home,
    journal,
    mailserver,
    patterns,
    safety,
    signup,
    status,
    terminal,
)
from .extensions import background, db, mail


def create_app() -> Flask:
    """Make the demo, as its settings say."""
    app = Flask(__name__, instance_path=str(config.INSTANCE))
    app.config.from_object(config)
    app.config.from_prefixed_env()  # FLASK_BACKGROUND_BACKEND, say
    # What visitors upload is theirs: nobody else on this machine has to see it.
    config.INSTANCE.mkdir(mode=0o700, parents=True, exist_ok=True)

    app.config["MAIL_IS_LOCAL"] = not app.config["MAIL_SERVER"]
    if app.config["MAIL_IS_LOCAL"]:
        # The gunicorn that started this worker has started one for all of them.
        port = os.environ.get("DEMO_MAIL_PORT") or mailserver.start(config.INSTANCE / "outbox")
        app.config.update(MAIL_SERVER=mailserver.HOST, MAIL_PORT=int(port))

    background.init_app(app)
    mail.init_app(app)
    db.init_app(app)
    patterns.make_table(app)
    terminal.init_app(app)  # first, so that a form that is refused has a line, too
    safety.init_app(app)
    for page in (home, gallery, signup, grace, cpu, patterns, journal, status):
        app.register_blueprint(page.bp)
    app.register_blueprint(create_status(), url_prefix="/items")

    @app.template_filter()
    def source(function: Callable[..., Any]) -> str:
        return inspect.getsource(inspect.unwrap(function))

    @app.context_processor
    def process() -> dict[str, int]:
        return {"pid": os.getpid(), "parent_pid": os.getppid()}

    return app
