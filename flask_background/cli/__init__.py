"""The commands of ``flask background``, for an app with a Background.

The commands are loaded when one of them is looked up: ``flask run`` needs nothing of what they import.
"""

from __future__ import annotations

from importlib import import_module

import click
from flask.cli import AppGroup

#: The key of an app's metrics among its extensions, for the command that serves them.
METRICS = "background.metrics"


class _Group(AppGroup):
    """A group that loads its commands when it is asked for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        _load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        _load()
        return super().get_command(ctx, cmd_name)


def _load() -> None:
    for module in ("commands", "items", "acting", "pausing", "overview", "top", "metrics"):
        import_module(f"flask_background.cli.{module}")


background = _Group(
    "background", help="Run items, show what they do, change them, and check the app for unsafe settings."
)
