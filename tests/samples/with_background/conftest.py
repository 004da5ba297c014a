"""The app, whose items wait for the test."""

from __future__ import annotations

import pytest
from flask import Flask

from .app import create_app


@pytest.fixture
def app() -> Flask:
    """The app."""
    return create_app()


@pytest.fixture(autouse=True)
def items(background_items: None) -> None:
    """Items wait in each test."""
