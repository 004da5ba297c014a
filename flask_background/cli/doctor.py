"""The checks of ``flask background doctor``: settings, the journal and its items, Celery and its servers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flask_background.core.finding import Finding
from flask_background.core.settings import unknown_keys
from flask_background.durable.journal.folder import make_folder
from flask_background.errors import ConfigurationError
from flask_background.executors.processes.app_location import locate

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


def examine(state: BackgroundState) -> Iterator[Finding]:
    """Check what an app uses. Changes nothing; asks servers for a few seconds at most."""
    yield from _names(state)
    grace = state.settings.grace_period
    yield Finding(
        "ok",
        "grace period",
        f"{grace:g} s: give gunicorn graceful_timeout = {grace + 1:g}, and the process manager a little more",
    )
    if any(options.kind == "process" for options in state.settings.executors.values()):
        yield _children(state)
    if state.has_journal():
        folder = _folder(state)
        yield folder
        yield _durability(state)
        if folder.level == "ok":
            from flask_background.monitoring import health  # imports sqlite3, for apps that have a journal

            yield from health.examine(state)
    if state.has_celery():
        from flask_background.celery import doctor  # imports Celery, for apps that name it

        yield from doctor.examine(state.app, state.settings)


def _names(state: BackgroundState) -> Iterator[Finding]:
    for key, close in unknown_keys(state.app.config):
        yield Finding(
            "warning",
            key,
            "there is no such setting, so it has no effect",
            f"{close} may be meant" if close else "leave it out",
        )


def _children(state: BackgroundState) -> Finding:
    try:
        location = locate(state.app, state.settings.app)
    except ConfigurationError as error:
        return Finding("error", "child processes", str(error))
    return Finding("ok", "child processes", f"they load the app from {location}")


def _folder(state: BackgroundState) -> Finding:
    try:
        make_folder(state.folder)
        with tempfile.TemporaryFile(dir=state.folder):
            pass
    except OSError as error:
        return Finding(
            "error",
            "journal",
            f"its folder cannot be used: {error}",
            "give this user the folder for itself, or set BACKGROUND_JOURNAL to another one",
        )
    return Finding("ok", "journal", f"{state.folder} can be written")


def _durability(state: BackgroundState) -> Finding:
    if state.settings.durability == "power":
        return Finding("ok", "durability", "durable items survive power cuts")
    return Finding(
        "warning",
        "durability",
        "durable items do not survive a power cut",
        'leave BACKGROUND_DURABILITY at "power", unless they may be lost then',
    )
