"""The terminal: a line for each form that was sent, and the lines of Flask-Background's own log."""

from __future__ import annotations

import copy
import logging
import time

from flask import Flask, g, request
from werkzeug.wrappers import Response

# Their runs would fill the terminal, and the page of all items.
ON_SCHEDULE = ("demo_app.patterns.tick", "demo_app.tidy.prune")


class OneLine(logging.Formatter):
    """Says in one line why a run is tried again; an error for good keeps its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if record.levelno >= logging.ERROR or not record.exc_info:
            return super().format(record)
        shown = copy.copy(record)
        shown.msg, shown.args = f"{record.getMessage()}: {record.exc_info[1]!r}", ()
        shown.exc_info = shown.exc_text = None
        return super().format(shown)


handler = logging.StreamHandler()
handler.setFormatter(OneLine("%(asctime)s  %(process)d  %(message)s", "%H:%M:%S"))


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
    """Whether a line is more than the usual run of a task on a schedule."""
    return record.levelno >= logging.WARNING or not any(name in record.getMessage() for name in ON_SCHEDULE)
