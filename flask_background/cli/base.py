"""The shared base of the commands of ``flask background``.

Errors are one line, and the exit status is 1, or 2 for a wrong command line. The arguments of items are
never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from flask import current_app

from flask_background.app_state import BackgroundState, state_of
from flask_background.cli import background
from flask_background.cli.formatting import printable
from flask_background.errors import BackgroundError

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable, with times in UTC.")


def current_state() -> BackgroundState:
    """Return the state of the current app; raise ClickException if the app has no Background."""
    if "background" not in current_app.extensions:
        raise click.ClickException(f"app {current_app.name!r} has no Background: call init_app")
    return state_of(current_app)


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for a command that has one-line errors and leaves items to other processes."""

    def decorate(func: Callable[..., None]) -> click.Command:
        @wraps(func)
        def call(**options: Any) -> None:
            state = current_state()
            state.runs_durable = False
            state.role = "command"
            for name, value in options.items():
                _check_text(name, value)
            try:
                func(state, **options)
            except BackgroundError as error:
                raise click.ClickException(printable(error)) from error

        return background.command(name)(call)

    return decorate


def _check_text(name: str, value: object) -> None:
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{name}: {value!r} is no well-formed text") from None
