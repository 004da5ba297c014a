"""The errors: what they are, what they say, and what a view answers that lets them pass."""

from __future__ import annotations

import inspect

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from flask_background import errors
from flask_background.core.token import CancellationToken
from flask_background.errors import (
    ArgumentError,
    BackgroundError,
    ConfigurationError,
    EnqueueError,
    ItemCancelledError,
    ItemInterruptedError,
    ItemTimeoutError,
    NotFinishedError,
    NotInitializedError,
    PayloadTooLargeError,
    QueueFull,
    SerializationError,
    StateError,
    Stopping,
    UploadMovedError,
)


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (ConfigurationError, (BackgroundError, ValueError)),
        (NotInitializedError, (BackgroundError, RuntimeError)),
        (ArgumentError, (BackgroundError, TypeError)),
        (SerializationError, (ArgumentError,)),
        (PayloadTooLargeError, (ArgumentError,)),
        (StateError, (BackgroundError, TypeError)),
        (UploadMovedError, (BackgroundError, ValueError)),
        (EnqueueError, (BackgroundError, ServiceUnavailable)),
        (QueueFull, (EnqueueError,)),
        (Stopping, (EnqueueError,)),
        (NotFinishedError, (BackgroundError, TimeoutError)),
        (ItemCancelledError, (BackgroundError,)),
        (ItemInterruptedError, (BackgroundError,)),
        (ItemTimeoutError, (BackgroundError, TimeoutError)),
    ],
)
def test_family(error: type[Exception], parents: tuple[type[Exception], ...]) -> None:
    """Each error can be caught as one of ours, and as the built-in that it is a case of."""
    assert error.__bases__ == parents


def test_tree_is_complete() -> None:
    """The tree in the module's docstring shows every error, and shows nothing else."""
    defined = {
        name
        for name, member in inspect.getmembers(errors, inspect.isclass)
        if member.__module__ == errors.__name__
    }
    drawn = {
        line.split("─ ")[-1].split()[0]
        for line in (errors.__doc__ or "").splitlines()
        if "─ " in line or line.strip() == "BackgroundError"
    }
    assert drawn == defined


@pytest.mark.parametrize(("error", "seconds"), [(QueueFull, "1"), (Stopping, "5")])
def test_refused_in_a_view(app: Flask, client: FlaskClient, error: type[EnqueueError], seconds: str) -> None:
    """A view that lets a refusal pass answers 503 with Retry-After, and tells visitors no details."""

    @app.post("/")
    def view() -> str:
        raise error("mails.send was not enqueued: 10000 items wait")

    response = client.post("/")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == seconds
    assert "try again" in response.text
    assert "mails.send" not in response.text
    assert "10000" not in response.text


def test_refused_by_a_handler(app: Flask, client: FlaskClient) -> None:
    """An app can answer refusals in its own way."""

    @app.errorhandler(EnqueueError)
    def busy(error: EnqueueError) -> tuple[str, int]:
        return f"later: {error.message}", 202

    @app.post("/")
    def view() -> str:
        raise QueueFull("full")

    assert client.post("/").text == "later: full"


def test_refused_speaks_to_developers() -> None:
    """The text of a refusal is the message, not the page."""
    error = QueueFull("mails.send was not enqueued")
    assert str(error) == error.message == "mails.send was not enqueued"
    assert isinstance(error, HTTPException)
    assert error.code == 503


def test_cancelled_carries_its_token() -> None:
    """ItemCancelledError has the token of the cancellation, or None."""
    token = CancellationToken()
    assert ItemCancelledError("ended", token).token is token
    assert ItemCancelledError("ended").token is None


@pytest.mark.parametrize("name", ["ArgumentRefused", "Refused", "ItemFailed"])
def test_old_names(name: str) -> None:
    """An error's name of before 0.1 still works, and its warning says the new one."""
    with pytest.warns(DeprecationWarning, match=rf"errors\.{name} is now called \w+Error"):
        assert issubclass(getattr(errors, name), BackgroundError)
    with pytest.raises(AttributeError):
        errors.Nothing  # noqa: B018
