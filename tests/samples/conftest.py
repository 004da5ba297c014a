"""A client of the sample app that a folder has."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from . import shop


@pytest.fixture(autouse=True)
def new_shop() -> None:
    """Each test has a shop that has sent no mail."""
    shop.forget()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client."""
    return app.test_client()
