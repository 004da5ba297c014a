"""The command ``flask run``: whether the app is loaded for it, in the process that will serve."""

from __future__ import annotations

import click
from flask.cli import FlaskGroup
from flask.helpers import get_debug_flag
from werkzeug.serving import is_running_from_reloader


def in_flask_run() -> bool:
    """Return whether ``flask run`` is about to serve in this process; its reloader serves in a child.

    A command of another library in place of Flask's own counts as well.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.parent is None or not isinstance(context.parent.command, FlaskGroup):
        return False
    if context.command.name != "run":
        return False
    reloads = context.params.get("reload")
    return is_running_from_reloader() or not (get_debug_flag() if reloads is None else reloads)
