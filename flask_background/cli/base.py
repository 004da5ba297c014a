"""The shared base of the commands of ``flask background``.

The exit status is 0 if all went well; 1 after an error, and if there was nothing to do or nothing was found;
and 2 for a wrong command line. Errors are one line. The arguments of items are never shown.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from flask import current_app

from flask_background.app_state import BackgroundState, state_of
from flask_background.cli import background
from flask_background.cli.formatting import printable
from flask_background.errors import BackgroundError

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor

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

        # Otherwise the list of commands would cut the sentence in the middle.
        sentence = " ".join((func.__doc__ or "").split()).partition(". ")[0].removesuffix(".")
        return background.command(name, short_help=f"{sentence}.")(call)

    return decorate


def monitor_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for a command that looks at items and acts on them, and gets the app's monitor."""

    def decorate(func: Callable[..., None]) -> click.Command:
        @wraps(func)
        def call(state: BackgroundState, **options: Any) -> None:
            monitor: Monitor = state.app.extensions["background"].monitor
            func(monitor, **options)

        return command(name)(call)

    return decorate


def nothing_done() -> click.exceptions.Exit:
    """Return the exception that ends a command which has found nothing to do."""
    return click.exceptions.Exit(1)


def operator() -> str:
    """Return the name of the user of the operating system who runs the command, for the log."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user that has no name
        return f"uid {os.getuid()}"


def _check_text(name: str, value: object) -> None:
    try:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{name}: {text!r} is no well-formed text") from None
