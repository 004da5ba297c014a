"""The demo of Flask-Background: a gallery, a sign-up that mails, an item that takes its time.

Start it with ``gunicorn -c demo_app/gunicorn.conf.py`` from the folder above this one.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from . import gallery, grace, items, safety, signup
from .extensions import background, mail
from .mailserver import LocalMailServer


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the demo. ``config`` overrides settings; its INSTANCE_PATH says where files are kept."""
    config = dict(config or {})
    app = Flask(__name__, instance_path=config.pop("INSTANCE_PATH", None))
    app.config.from_object("demo_app.config")
    app.config.update(config)
    # What visitors upload is theirs: nobody else on this machine has to see it.
    Path(app.instance_path).mkdir(mode=0o700, parents=True, exist_ok=True)

    if not app.config["MAIL_SERVER"]:
        server = LocalMailServer(Path(app.instance_path, "outbox"))
        app.extensions["local_mail"] = server
        app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port)

    background.init_app(app)
    mail.init_app(app)
    safety.init_app(app)
    for page in (gallery, signup, grace, items):
        app.register_blueprint(page.bp)

    @app.template_filter()
    def source(function: Callable[..., Any]) -> str:
        return inspect.getsource(inspect.unwrap(function))

    @app.context_processor
    def process() -> dict[str, int]:
        return {"pid": os.getpid(), "parent_pid": os.getppid()}

    return app
