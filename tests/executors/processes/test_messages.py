"""Messages to a child and back: arguments, uploads, outcomes."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage, ImmutableMultiDict

from flask_background.core.status import Outcome, Status
from flask_background.core.token import CancellationSource
from flask_background.errors import ArgumentError, ItemCancelledError, ItemFailedError, ResultLostError
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes import packing
from flask_background.executors.processes.pipes import Pipes


def travel(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, on the other side."""
    parcel = packing.pack(print, args, kwargs)
    uploads = [
        packing.receive_upload(pickle.loads(pickle.dumps(packing.send_upload(each))))
        for each in parcel.uploads
    ]
    return packing.unpack(parcel.pickled, uploads)


def come_back(outcome: Outcome) -> Outcome:
    """The outcome, on this side."""
    return parcels.outcome_of(pickle.loads(pickle.dumps(parcels.end(outcome))), "item 1 (shop.work)")


def test_arguments() -> None:
    """They arrive as they are."""
    assert travel(1, [{"a": (2,)}], b=None) == ((1, [{"a": (2,)}]), {"b": None})


@pytest.mark.parametrize("make", [io.BytesIO, tempfile.TemporaryFile], ids=["memory", "file"])
def test_uploads(make: Callable[[], Any]) -> None:
    """Each upload is sent once, with its names and headers, wherever among the arguments it stands."""
    with make() as stream:
        stream.write(b"meow")
        upload = FileStorage(stream, "cat.png", "photo", "image/png", headers={"X-Ray": "no"})
        nameless = FileStorage(io.BytesIO(b"woof"))
        args, kwargs = travel(upload, [upload, nameless], files=ImmutableMultiDict([("photo", upload)]))
        cat, (same, dog) = args
        assert cat is same is kwargs["files"]["photo"]
        assert (cat.filename, cat.name, cat.content_type, cat.headers["X-Ray"]) == (
            "cat.png",
            "photo",
            "image/png",
            "no",
        )
        assert (cat.read(), dog.read(), dog.filename) == (b"meow", b"woof", None)
        cat.close()
        (again,), _ = travel(upload)  # for another attempt
        assert again.read() == b"meow"
        again.close()


def test_file_of_a_process_that_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content of its uploads is sent."""
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with tempfile.TemporaryFile() as stream:
        stream.write(b"meow")
        assert packing.send_upload(FileStorage(stream, "cat.png", "photo"))[3] == b"meow"


def test_refused_argument() -> None:
    """It is named, in whatever it stands."""
    with pytest.raises(ArgumentError, match=r"^sep cannot be sent to a child process .*local object"):
        packing.pack(print, (1,), {"sep": [lambda: 1]})


@pytest.mark.parametrize(
    "value",
    [None, True, 42, -(10**5000), 1.5, float("inf"), "x", "x" * 1001, "\ud83d\ude00", b"x", {"a": [1]}],
    ids=lambda value: type(value).__name__,
)
def test_result(value: Any) -> None:
    """A result comes back as it is, through the pipe too: small ones as JSON, others pickled."""
    first, second = os.pipe(), os.pipe()
    child, parent = Pipes(first[0], second[1]), Pipes(second[0], first[1], is_parent=True)
    child.send(parcels.end((Status.SUCCEEDED, value, None)))
    parent.read()
    ended = parent.take()
    child.close()
    parent.close()
    assert isinstance(ended, parcels.RunEnded)
    status, back, error = parcels.outcome_of(ended, "item 1 (shop.work)")
    assert (status, back, type(back), error) == (Status.SUCCEEDED, value, type(value), None)


def test_lost_result() -> None:
    """One that cannot is replaced, and the item has succeeded."""
    status, _, error = come_back((Status.SUCCEEDED, lambda: 1, None))
    assert status is Status.SUCCEEDED
    assert isinstance(error, ResultLostError)


class Exiting(Exception):
    """An object that ends the process when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit


def test_what_exits_when_it_is_sent() -> None:
    """It does not take its process along."""
    status, value, error = come_back((Status.SUCCEEDED, Exiting("closed"), None))
    assert (status, type(value), error) == (Status.SUCCEEDED, Exiting, None)
    status, _, error = come_back((Status.FAILED, None, Exiting("closed")))
    assert (status, type(error), str(error)) == (Status.FAILED, Exiting, "closed")


def test_error() -> None:
    """An error comes back with its notes, and its traceback is its cause."""
    try:
        {}["lost"]
    except KeyError as raised:
        raised.add_note("where the keys are")
        status, _, error = come_back((Status.FAILED, None, raised))
    assert status is Status.FAILED
    assert isinstance(error, KeyError)
    assert error.args == ("lost",)
    assert error.__notes__ == ["where the keys are"]
    assert "in test_error" in str(error.__cause__)


class Stubborn(Exception):
    """An error that is worse than it looks."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise ValueError

    def __str__(self) -> str:
        raise ValueError


def test_error_that_does_not_come_back() -> None:
    """It is replaced by its text, as far as it has one."""
    _, _, error = come_back((Status.FAILED, None, Stubborn()))
    assert isinstance(error, ItemFailedError)
    assert (
        "item 1 (shop.work) failed with tests.executors.processes.test_messages.Stubborn, whose text raises"
        in str(error)
    )


def test_foreign_cancellation() -> None:
    """Another item's token stays behind."""
    error = come_back((Status.FAILED, None, ItemCancelledError("another", CancellationSource().token)))[2]
    assert isinstance(error, ItemCancelledError)
    assert error.token is None
