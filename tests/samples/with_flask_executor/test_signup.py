"""The suite of the sample app, as far as Flask-Executor lets it be written."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from .. import shop
from .app import send_welcome
from .conftest import Calls

BO = {"address": "bo@example.com"}


def test_welcome_is_enqueued(client: FlaskClient, calls: Calls) -> None:
    """Whoever signs up is welcomed, once."""
    client.post("/signup", data=BO)
    assert [(call.func, call.args) for call in calls] == [(send_welcome, ("bo@example.com",))]


def test_welcome_is_sent(client: FlaskClient, calls: Calls) -> None:
    """The mail has a link to the host of the request."""
    client.post("/signup", data=BO, base_url="https://shop.example")
    calls.run()
    assert shop.mails == [("bo@example.com", "Welcome! https://shop.example/confirm/bo@example.com")]


def test_bad_address(client: FlaskClient, calls: Calls) -> None:
    """Nothing is enqueued for nobody."""
    client.post("/signup", data={"address": "bo"})
    assert calls == []


def test_failures_are_noticed(client: FlaskClient, calls: Calls) -> None:
    """A test does not pass over a call that fails."""
    client.post("/report", data={"pages": "many"})
    with pytest.raises(AssertionError, match="write_report"):
        calls.check()
    calls.clear()
