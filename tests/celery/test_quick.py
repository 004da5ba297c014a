"""Records in Redis, put there in one question: they are what Celery would have written itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any

import pytest
from celery.result import AsyncResult
from flask import Flask

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.celery.record import Record
from flask_background.celery.records import Changed, Records
from flask_background.celery.redis import records as quick
from flask_background.errors import BrokerError

from .conftest import Redis

RECORD = Record("shop.echo", Status.QUEUED, 1.5)


@pytest.fixture(params=[True, False], ids=["quick", "as Celery does"])
def records(request: pytest.FixtureRequest, app: Flask, monkeypatch: pytest.MonkeyPatch) -> Records:
    """Both ways to write them."""
    monkeypatch.setattr(
        quick, "is_quick", lambda celery, is_quick=quick.is_quick: request.param and is_quick(celery)
    )
    return Records(state_of(app).celery.cluster.client)


def begin_run(records: Records, item_id: str, record: Record) -> bool:
    """Begin one, whatever is there."""
    return records.begin_run(item_id, record, records.see(item_id)[1])


def test_all_that_is_written(app: Flask, records: Records) -> None:
    """Each is read as it was written, by us and by Celery, and kept for as long as Celery keeps it."""
    client = records._celery.backend.client
    for name, write, status, state in [
        ("first", records.begin, Status.QUEUED, "PENDING"),
        ("begun", partial(begin_run, records), Status.RUNNING, "STARTED"),
        ("done", records.write, Status.SUCCEEDED, "SUCCESS"),
    ]:
        record = RECORD._replace(status=status)
        write(name, record)
        assert records.read(name) == record
        assert AsyncResult(name, app=app.extensions["celery"]).state == state
        assert 0 < client.ttl(f"celery-task-meta-{name}") <= 86_400
    kept = json.loads(client.get("celery-task-meta-done"))
    assert sorted(kept) == ["children", "date_done", "result", "status", "task_id", "traceback"]
    assert kept["date_done"] is not None


def test_run_sees_who_asked(records: Records) -> None:
    """Whoever begins a run learns that its end was asked for."""
    assert not begin_run(records, "wanted", RECORD)
    records.ask_to_end("unwanted")
    assert begin_run(records, "unwanted", RECORD)


def test_one_run_begins(app: Flask) -> None:
    """Of two who have seen the same record one begins a run; and that may ask twice."""
    records = Records(state_of(app).celery.cluster.client)
    name = token_hex(12)
    one, other = (RECORD._replace(status=Status.RUNNING, message=message) for message in ("a", "b"))
    with pytest.raises(Changed):
        records.begin_run(name, one, records.first(name, RECORD))  # there is none yet
    records.begin(name, RECORD)
    seen = records.first(name, RECORD)
    assert records.see(name) == (RECORD, seen)
    assert not records.begin_run(name, one, seen)
    assert not records.begin_run(name, one, seen)
    with pytest.raises(Changed):
        records.begin_run(name, other, seen)
    assert records.read(name) == one


def test_celery_is_told_of_success(app: Flask, records: Records) -> None:
    """Who waits for the result with Celery's means gets it when it is there."""
    name = token_hex(12)
    client = records._celery.backend.client
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(f"celery-task-meta-{name}")
        listener.get_message(timeout=5)
        records.write(name, RECORD._replace(status=Status.SUCCEEDED))
        message = listener.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"])["status"] == "SUCCESS"


def test_connection_that_has_ended(records: Records, redis: Redis) -> None:
    """A record arrives though the server has closed the connection since it was last used."""
    records.begin("before", RECORD)
    redis.drop_connections()
    records.begin("after", RECORD)
    assert records.read("after") == RECORD


def test_redis_is_gone(redis: Redis, records: Records) -> None:
    """Both ways say so with the same error."""
    redis.stop()
    try:
        for write in (records.begin, partial(records.begin_run, seen=None), records.write):
            with pytest.raises(BrokerError, match="result backend cannot be reached"):
                write("lost", RECORD._replace(status=Status.SUCCEEDED))
    finally:
        redis.start()


def test_other_result_backends(make_app: Callable[..., Flask], tmp_path: Any) -> None:
    """One that is not Redis is written to as Celery does."""
    app = make_app(celery={"result_backend": f"file://{tmp_path}"})
    with app.app_context():
        records = Records(state_of(app).celery.cluster.client)
        assert not quick.is_quick(records._celery)
        records.begin("first", RECORD)
        assert not records.begin_run("first", RECORD._replace(status=Status.RUNNING), None)
        assert records.first("first", RECORD) is None
        assert records.read("first") == RECORD._replace(status=Status.RUNNING)
