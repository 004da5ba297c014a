"""The suite of the sample app, with flask_background.testing."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient

from flask_background.errors import ItemInterruptedError, ItemTimeoutError, SerializationError
from flask_background.testing import (
    assert_enqueued,
    expect_failures,
    fire_token,
    move_time,
    perform,
    refute_enqueued,
    run_due,
    run_items,
)

from .. import shop
from .app import clean_up, send_reminder, send_welcome, write_report

BO = {"address": "bo@example.com"}


def test_welcome_is_enqueued(client: FlaskClient) -> None:
    """Whoever signs up is welcomed, once, and not before the response."""
    client.post("/signup", data=BO)
    assert_enqueued(send_welcome, args=("bo@example.com",), count=1)
    assert shop.mails == []


def test_welcome_is_sent(client: FlaskClient) -> None:
    """The mail has a link to the host of the request."""
    client.post("/signup", data=BO, base_url="https://shop.example")
    run_due()
    assert shop.mails == [("bo@example.com", "Welcome! https://shop.example/confirm/bo@example.com")]


def test_bad_address(client: FlaskClient) -> None:
    """Nothing is enqueued for nobody."""
    client.post("/signup", data={"address": "bo"})
    refute_enqueued(send_welcome)


def test_view_fails(client: FlaskClient) -> None:
    """Nobody is welcomed whose sign-up has failed."""
    client.post("/signup", data={"address": "broken@example.com"})
    refute_enqueued(send_welcome)


def test_mail_server_is_down(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail is tried again after a minute, three times at most."""
    monkeypatch.setattr(shop, "send", send := Mock(side_effect=OSError("no server")))
    client.post("/signup", data=BO)
    run_due()
    run_due(timedelta(seconds=55))
    assert send.call_count == 1
    run_due(timedelta(seconds=10))
    assert send.call_count == 2
    with expect_failures(OSError):
        run_due(timedelta(minutes=2))
    assert send.call_count == 3


def test_reminder(client: FlaskClient) -> None:
    """The reminder comes after a day."""
    client.post("/signup", data=BO)
    assert_enqueued(send_reminder, delay=timedelta(days=1))
    run_due(timedelta(hours=23))
    assert len(shop.mails) == 1
    run_due(timedelta(hours=1))
    assert shop.mails[1] == ("bo@example.com", "Are you still there?")


def test_nightly() -> None:
    """The shop is cleaned up each night at three."""
    run_due(timedelta(days=7))
    assert_enqueued(clean_up, count=7)
    assert shop.nights == ["03"] * 7


def test_stop_during_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that the end of the process interrupts leaves nothing behind."""
    monkeypatch.setattr(shop, "write_page", lambda number: shop.pages.append(number) or fire_token())
    with pytest.raises(ItemInterruptedError):
        perform(write_report, 3)
    assert shop.pages == []


def test_slow_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that takes more than five minutes is given up."""
    monkeypatch.setattr(shop, "write_page", lambda number: move_time(timedelta(minutes=2)))
    with pytest.raises(ItemTimeoutError):
        perform(write_report, 4)


def test_two_clicks(client: FlaskClient) -> None:
    """Somebody who clicks twice gets one report."""
    assert client.post("/report/bo").text == client.post("/report/bo").text
    assert client.post("/report/al").text
    assert_enqueued(write_report, args=(3,), count=2)


def test_arguments_are_data() -> None:
    """A report is asked for with data, as it has to be where it is kept on disk."""
    with pytest.raises(SerializationError):
        write_report.enqueue(object())  # type: ignore[arg-type]


def test_failures_are_noticed() -> None:
    """A test does not pass over an item that fails."""
    write_report.enqueue("many")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="write_report"):
        run_items()
