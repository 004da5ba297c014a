"""The suite of the sample app, as far as RQ lets it be written."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient

from .. import shop
from .app import write_report
from .conftest import Jobs

BO = {"address": "bo@example.com"}


def test_welcome_is_enqueued(client: FlaskClient, jobs: Jobs) -> None:
    """Whoever signs up is welcomed, once, and not before the response."""
    client.post("/signup", data=BO)
    assert jobs.calls() == [("send_welcome", ["bo@example.com", "http://localhost/confirm/bo@example.com"])]
    assert shop.mails == []


def test_welcome_is_sent(client: FlaskClient, jobs: Jobs) -> None:
    """The mail has a link to the host of the request."""
    client.post("/signup", data=BO, base_url="https://shop.example")
    jobs.run()
    assert shop.mails == [("bo@example.com", "Welcome! https://shop.example/confirm/bo@example.com")]


def test_bad_address(client: FlaskClient, jobs: Jobs) -> None:
    """Nothing is enqueued for nobody."""
    client.post("/signup", data={"address": "bo"})
    assert jobs.calls() == []


def test_mail_server_is_down(client: FlaskClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail is tried again after a minute, three times at most."""
    monkeypatch.setattr(shop, "send", send := Mock(side_effect=OSError("no server")))
    client.post("/signup", data=BO)
    jobs.run()
    jobs.run_due(timedelta(seconds=55))
    assert send.call_count == 1
    jobs.run_due(timedelta(seconds=10))
    assert send.call_count == 2
    jobs.run_due(timedelta(minutes=2))
    assert send.call_count == 3
    with pytest.raises(AssertionError, match="send_welcome"):
        jobs.check()
    jobs.queue.failed_job_registry.remove(jobs.queue.failed_job_registry.get_job_ids()[0])


def test_reminder(client: FlaskClient, jobs: Jobs) -> None:
    """The reminder comes after a day."""
    client.post("/signup", data=BO)
    jobs.run()
    jobs.run_due(timedelta(hours=23))
    assert len(shop.mails) == 1
    jobs.run_due(timedelta(hours=1))
    assert shop.mails[1] == ("bo@example.com", "Are you still there?")


def test_two_clicks(client: FlaskClient, jobs: Jobs) -> None:
    """Somebody who clicks twice gets one report."""
    assert client.post("/report/bo").text == client.post("/report/bo").text
    assert client.post("/report/al").text
    assert jobs.calls() == [("write_report", [3]), ("write_report", [3])]


def test_arguments_are_data(jobs: Jobs) -> None:
    """A report is asked for with data."""
    with pytest.raises(TypeError):
        jobs.queue.enqueue(write_report, object())


def test_failures_are_noticed(jobs: Jobs) -> None:
    """A test does not pass over a job that fails."""
    jobs.queue.enqueue(write_report, "many")
    jobs.run()
    with pytest.raises(AssertionError, match="write_report"):
        jobs.check()
    jobs.queue.failed_job_registry.remove(jobs.queue.failed_job_registry.get_job_ids()[0])
