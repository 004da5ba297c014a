"""Records of items, as data and back."""

from __future__ import annotations

from types import MappingProxyType

from flask_background.celery.records.record import Record
from flask_background.core.request_state import RequestState
from flask_background.core.status import Progress, Status
from flask_background.errors import ItemCancelledError, ItemFailedError
from flask_background.payload.data import dump_state
from flask_background.payload.outcomes import error_as_data, progress_as_data, result_as_data

from ..helpers import MAX_BYTES

STATE = RequestState("GET", "http", "example.com", path="/", values=MappingProxyType({"user": 7}))


def test_there_and_back() -> None:
    """A record survives as strings, and so does what it says of the last attempt."""
    record = Record(
        "mail",
        Status.SUCCEEDED,
        4.0,
        payload="[]",
        state=dump_state(STATE),
        attempt=2,
        cancel=1,
        started=6.0,
        finished=7.0,
        progress=progress_as_data(Progress(1, 2, "half"), MAX_BYTES),
        result=result_as_data((1, b"2"), 1_000),
    )
    fields = record.as_fields()
    assert {type(value) for value in fields.values()} == {str}
    back = Record.of_fields(fields)
    assert back == record
    assert back.request_state() == STATE
    attempt = back.attempt_of("0" * 24)
    assert (attempt.number, attempt.started, attempt.finished) == (2, 6.0, 7.0)
    assert (attempt.progress, attempt.value, attempt.error) == ((1, 2, "half"), (1, b"2"), None)


def test_what_a_later_version_adds() -> None:
    """A field that is not known is left out."""
    fields = {"task": "mail", "status": "queued", "enqueued": "4.0", "colour": "red"}
    assert Record.of_fields(fields) == Record("mail", Status.QUEUED, 4.0)


def test_errors() -> None:
    """A failure has its error's text and traceback; a parked or cancelled item says why."""
    text = error_as_data(ValueError("no"), MAX_BYTES)
    failed = Record("mail", Status.FAILED, 4.0, error=text).attempt_of("0").error
    assert isinstance(failed, ItemFailedError)
    assert "ValueError: no" in str(failed)
    assert "ValueError: no" in failed.__notes__[0]
    parked = Record("mail", Status.FAILED, 4.0, reason="it died").attempt_of("0").error
    assert str(parked) == "item 0 (mail) was parked: it died"
    for reason, words in ((None, "was cancelled"), ("refused: no broker", "was refused: no broker")):
        error = Record("mail", Status.CANCELLED, 4.0, reason=reason).attempt_of("0").error
        assert isinstance(error, ItemCancelledError)
        assert words in str(error)
    # Of an attempt that is followed by another one nothing is to be seen yet.
    queued = Record("mail", Status.QUEUED, 4.0, attempt=1, error=error_as_data(OSError(), MAX_BYTES))
    assert queued.attempt_of("0").error is None
