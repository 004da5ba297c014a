"""The apps that tests work on: which app is meant, and which backend its items go to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import current_app, has_app_context

from flask_background.app_state import STATE, BackgroundState, state_of, states_in_use
from flask_background.concurrency import callbacks
from flask_background.core.options import DefaultBackend
from flask_background.extension import Background
from flask_background.task import Task

if TYPE_CHECKING:
    from flask import Flask

# How long items have for their end when a test is over, and then their threads, in seconds.
_GRACE = 5.0
_LOOK = 0.002

# The apps of the blocks that are entered, the innermost one last.
_entered: list[Flask] = []


def find_app(task: Task[Any, Any] | None = None) -> Flask:
    """Return the current app, or that of the innermost block, or the app that the task's Background has."""
    if has_app_context() and STATE in current_app.extensions:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return app
    if _entered:
        return _entered[-1]
    background = None if task is None else task._finder
    if isinstance(background, Background) and background._app is not None:
        return background._app
    raise RuntimeError(
        "flask_background.testing does not know which app is meant: call this inside"
        " `with record_items(app):` or `with app.app_context():`, or use the fixture background_items"
    )


@contextmanager
def entered(app: Flask) -> Iterator[BackgroundState]:
    """Let app be the one that is meant in the block, for the tasks of its Background, too."""
    if STATE not in app.extensions:
        raise RuntimeError(f"app {app.name!r} has no Background: call background.init_app(app) first")
    state = state_of(app)
    background: Background = app.extensions["background"]
    before = background._change_app(app)
    _entered.append(app)
    try:
        yield state
    finally:
        _entered.pop()
        background._change_app(before)


@contextmanager
def use_backend(app: Flask, name: DefaultBackend) -> Iterator[None]:
    """Let the app's items go to this backend in the block, as if BACKGROUND_BACKEND had named it.

    The app is stopped at the end of the block, and its next item starts it anew. Items have five seconds for
    their end, but those that wait for ``run_items`` are dropped. Raises AssertionError if items have not
    ended by then, or if their threads are left.
    """
    with entered(app) as state:
        known = _threads()
        stop([state], known)
        before = state.change_backend(name)
        try:
            yield
        finally:
            try:
                stop([state], known)
            finally:
                state.change_backend(before)


@contextmanager
def stopping_apps() -> Iterator[None]:
    """Stop the apps that have their first items in the block, as ``use_backend`` does."""
    before, known = states_in_use(), _threads()
    try:
        yield
    finally:
        stop(sorted(states_in_use() - before, key=lambda state: state.app.name), known)


def stop(states: list[BackgroundState], known: set[Any]) -> None:
    """Stop apps. Raises AssertionError that names items that have not ended, and threads that are left."""
    unfinished = [item for state in states for item in state.close(_GRACE)]
    names: list[str] = []
    if not states_in_use():  # another app may have threads of its own
        callbacks.threads.end_idle()
        end = time.monotonic() + _GRACE
        while (left := _threads() - known) and not unfinished and time.monotonic() < end:
            time.sleep(_LOOK)
        names = sorted(thread.name for thread in left)
    if unfinished or names:
        items = f"items that have not ended: {', '.join(map(repr, unfinished))}" if unfinished else ""
        threads = f"threads that are left: {', '.join(names)}" if names else ""
        raise AssertionError(f"the app was stopped, with {'; '.join(filter(None, (items, threads)))}")


def _threads() -> set[Any]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("background-")}
