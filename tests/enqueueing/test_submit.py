"""The path of every item: the checks in the view, and their order."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import g, request
from werkzeug.datastructures import FileStorage

from flask_background.errors import ArgumentError, PayloadTooLargeError, SerializationError

from ..helpers import BOUND, Site


def test_strict(make_site: Callable[..., Site]) -> None:
    """BACKGROUND_STRICT requires data of all tasks, but not of a callable that is no task."""
    for settings in ({"BACKGROUND_STRICT": True}, {}, {"TESTING": True}, {"DEBUG": True}):
        site = make_site("debugged", **settings)
        task = site.background.task(lambda value: None)
        if "BACKGROUND_STRICT" in settings:
            with pytest.raises(
                SerializationError, match=r"value is of the type set.* BACKGROUND_STRICT is set"
            ):
                task.enqueue({1, 2})
            with pytest.raises(PayloadTooLargeError, match=r"allow more \(task .* is not durable, but"):
                task.enqueue("x" * 1_000_001)
        else:
            task.enqueue({1, 2}).result(BOUND)
        site.background.enqueue(lambda value: None, {1, 2}).result(BOUND)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("durable", [True, False])
def test_live_arguments_have_their_own_cure(
    make_site: Callable[..., Site], tmp_path: Path, strict: bool, durable: bool
) -> None:
    """An argument that ends with the request is refused with its own cure, however strict the app is."""
    site = make_site(
        "debugged", BACKGROUND_STRICT=strict, DEBUG=True, BACKGROUND_JOURNAL=tmp_path / "journal"
    )
    task = site.background.task(durable=durable)(lambda value, *more: None)
    upload = FileStorage(io.BytesIO(b"picture"), "a.jpg")
    with site.app.test_request_context():
        for value, cure in ((request, "read the values"), (g, "read the values"), (site.app, "current_app")):
            with pytest.raises(ArgumentError, match=cure):
                task.enqueue(value, upload)
    if strict or durable:
        with pytest.raises(SerializationError, match="set"):
            task.enqueue(upload, {1})
    assert upload.read() == b"picture"  # it was given back
