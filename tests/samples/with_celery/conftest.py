"""The app, whose tasks run at once, in the view."""

from __future__ import annotations

import pytest
from flask import Flask

from .app import create_app


@pytest.fixture(autouse=True)
def app() -> Flask:
    """The app."""
    return create_app(task_always_eager=True, task_eager_propagates=True)
