"""The terminal: a line for each form that was sent, and the lines of Flask-Background's own log."""

from __future__ import annotations

import logging
import time

from flask import Flask, g, request
from werkzeug.wrappers import Response

# Tasks on a schedule: that they have been run is of interest to nobody, unless they fail.
QUIET = ("demo_app.patterns.tick", "demo_app.tidy.prune")

handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(asctime)s  %(process)d  %(message)s", "%H:%M:%S"))


def init_app(app: Flask) -> None:
    """Show the lines of an app."""
    for name in ("background", "forms"):
        logger = app.logger.getChild(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        if handler not in logger.handlers:
            logger.addHandler(handler)
    handler.addFilter(is_shown)
    forms = app.logger.getChild("forms")

    @app.before_request
    def start_clock() -> None:
        g.came = time.perf_counter()

    @app.after_request
    def say(response: Response) -> Response:
        if request.method == "POST" and "came" in g:
            spent = (time.perf_counter() - g.came) * 1000
            forms.info("%s answered with %d after %.0f ms", request.path, response.status_code, spent)
        return response


def is_shown(record: logging.LogRecord) -> bool:
    """Leave out the daily round of tasks on a schedule; say in one line why a run is tried again."""
    if record.exc_info and record.levelno < logging.ERROR:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]!r}", ()
        record.exc_info = record.exc_text = None
    return record.levelno >= logging.WARNING or not any(name in record.getMessage() for name in QUIET)
