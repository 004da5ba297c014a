"""The tagged JSON: one text everywhere, with nothing but data in it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.json.provider import JSONProvider
from flask.json.tag import TaggedJSONSerializer
from werkzeug.datastructures import FileStorage

from flask_background.payload.tagged_json import Serializer


def test_independent_of_the_app(app: Flask) -> None:
    """The text is the same under any JSON provider of the app, and can be read without an app."""

    class Provider(JSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            raise AssertionError

        loads = dumps  # type: ignore[assignment]

    serializer = Serializer()
    app.json = Provider(app)
    value = {"z": (1, b"x"), "a": UUID(int=1)}
    with app.app_context():
        text = serializer.dumps(value)
        assert list(serializer.loads(text).items()) == list(value.items())
    assert serializer.dumps(value) == text
    assert list(serializer.loads(text).items()) == list(value.items())


def test_damaged_text() -> None:
    """A text that is not tagged JSON raises ValueError."""
    for text in ("", "[", '{" dt":["x",0,null]}', '{" u":"x"}'):
        with pytest.raises(ValueError):  # noqa: PT011
            Serializer().loads(text)


def test_reads_like_flasks() -> None:
    """Values for which Flask has tags are written as in a session cookie."""
    value = {"a": (1, [None]), "b": b"x", "c": UUID(int=1), "d": {" t": 1}}
    assert Serializer().dumps(value) == TaggedJSONSerializer().dumps(value)


def test_datetimes_are_kept_whole() -> None:
    """Flask's tag for datetimes, which keeps seconds, is not used."""
    moment = datetime(2024, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
    assert TaggedJSONSerializer().loads(TaggedJSONSerializer().dumps(moment)) != moment
    assert Serializer().loads(Serializer().dumps(moment)) == moment
    assert " d" not in Serializer().tags


@pytest.mark.parametrize("reference", [{}, {"file": "0", "n": [1, {"a": None}]}, {" t": [1]}, {" up": {}}])
def test_references(reference: dict[str, Any]) -> None:
    """``rebuild`` gets the reference to an upload as ``replace`` gave it, whatever it looks like."""
    seen: list[dict[str, Any]] = []

    def rebuild(given: dict[str, Any]) -> str:
        seen.append(given)
        return "rebuilt"

    text = Serializer(replace=lambda upload: reference).dumps([FileStorage(io.BytesIO())])
    assert Serializer(rebuild=rebuild).loads(text) == ["rebuilt"]
    assert seen == [reference]
    assert Serializer().loads(text) == [reference]
