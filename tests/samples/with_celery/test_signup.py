"""The suite of the sample app, as far as Celery's eager mode lets it be written."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient
from kombu.exceptions import EncodeError

from .. import shop
from .app import send_welcome, write_report

BO = {"address": "bo@example.com"}


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of the task's way to the broker."""
    delay = Mock()
    monkeypatch.setattr(send_welcome, "delay", delay)
    return delay


def test_welcome_is_enqueued(client: FlaskClient, delay: Mock) -> None:
    """Whoever signs up is welcomed, once, and not before the response."""
    client.post("/signup", data=BO)
    delay.assert_called_once_with("bo@example.com", "http://localhost/confirm/bo@example.com")
    assert shop.mails == []


def test_welcome_is_sent(client: FlaskClient) -> None:
    """The mail has a link to the host of the request."""
    client.post("/signup", data=BO, base_url="https://shop.example")
    assert shop.mails == [("bo@example.com", "Welcome! https://shop.example/confirm/bo@example.com")]


def test_bad_address(client: FlaskClient, delay: Mock) -> None:
    """Nothing is enqueued for nobody."""
    client.post("/signup", data={"address": "bo"})
    delay.assert_not_called()


def test_arguments_are_data() -> None:
    """A report is asked for with data."""
    with pytest.raises(EncodeError):
        write_report.delay(object())


def test_failures_are_noticed() -> None:
    """A test does not pass over a task that fails."""
    with pytest.raises(TypeError):
        write_report.delay("many")
