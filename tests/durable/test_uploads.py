"""A durable item's arguments, uploads, result and error as data, and back."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage, Headers

from flask_background.core.status import Progress, Status
from flask_background.durable import uploads as module
from flask_background.durable.journal.row import ItemRow, attempt_of, make_row, state_of
from flask_background.durable.uploads import UploadFolder
from flask_background.errors import (
    ItemCancelledError,
    ItemFailedError,
    JournalError,
    PayloadTooLargeError,
    ResultLostError,
    SerializationError,
)
from flask_background.payload.outcomes import error_as_data, progress_as_data, result_as_data

from ..helpers import MAX_BYTES, make_callee
from .rows import ROW

ID = "0" * 24


def send(photo: Any = None, **more: Any) -> None:
    """A function that takes uploads."""


def upload(content: bytes = b"picture", **options: Any) -> FileStorage:
    """A file as a form brings it."""
    return FileStorage(io.BytesIO(content), **{"filename": "a.png", "name": "photo", **options})


@pytest.fixture(params=[True, False], ids=["synced", "unsynced"])
def packing(request: pytest.FixtureRequest, tmp_path: Path) -> UploadFolder:
    """Packs into a folder that is not there yet."""
    return UploadFolder(tmp_path / "uploads", 1_000, sync=request.param)


def pack(packing: UploadFolder, *args: Any, **kwargs: Any) -> ItemRow:
    """The entry of a call."""
    payload, uploads = packing.pack(ID, send, args, kwargs)
    return ROW._replace(payload=payload, uploads=uploads)


# Arguments and uploads.


def test_arguments(packing: UploadFolder, tmp_path: Path) -> None:
    """Arguments come back, and without uploads nothing is written."""
    entry = pack(packing, [1, (2,)], more={"k": b"bytes"})
    assert not entry.uploads
    assert packing.unpack(entry) == (([1, (2,)],), {"more": {"k": b"bytes"}}, [])
    assert os.listdir(tmp_path) == []


def test_upload(packing: UploadFolder, tmp_path: Path) -> None:
    """An upload is a file of its item, and comes back with its names and headers, each time anew."""
    given = upload(b"x" * 3_000_000, content_type="image/png; q=1", headers=Headers({"X-Odd": "ä, b"}))
    entry = pack(packing, more=[given, given])
    assert entry.uploads
    assert [path.name for path in (tmp_path / "uploads" / ID).iterdir()] == ["0"]
    for _ in range(2):
        args, kwargs, opened = packing.unpack(entry)
        first, second = kwargs["more"]
        assert args == ()
        assert len(opened) == len({id(each) for each in opened}) >= 1
        assert first.read() == b"x" * 3_000_000
        assert (first.filename, first.name, first.content_type) == ("a.png", "photo", "image/png; q=1")
        assert first.headers["X-Odd"] == "ä, b"
        assert second.filename == "a.png"
        for each in opened:
            each.close()


def test_names_lead_nowhere(packing: UploadFolder, tmp_path: Path) -> None:
    """The name that a visitor gives a file is kept, and has no part in where the file lies."""
    entry = pack(packing, upload(filename="../../evil", name="/etc/passwd"), more=upload(filename=None))
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [f"uploads/{ID}/0", f"uploads/{ID}/1"]
    (first,), kwargs, opened = packing.unpack(entry)
    assert (first.filename, first.name) == ("../../evil", "/etc/passwd")
    assert kwargs["more"].filename is None
    for each in opened:
        each.close()


def test_uploads_are_private(packing: UploadFolder, tmp_path: Path) -> None:
    """Nobody else can read them, whatever the umask."""
    before = os.umask(0)
    try:
        pack(packing, upload())
    finally:
        os.umask(before)
    for path in (tmp_path / "uploads").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_refused_leaves_nothing(packing: UploadFolder, tmp_path: Path) -> None:
    """An argument that is no data is refused before a file is written, and the upload is untouched."""
    given = upload()
    with pytest.raises(SerializationError, match=r"\bmore\b"):
        packing.pack(ID, send, (given,), {"more": {1}})
    assert given.read() == b"picture"
    assert os.listdir(tmp_path) == []


def test_too_large(packing: UploadFolder) -> None:
    """The text has a limit; what an upload holds does not count."""
    with pytest.raises(PayloadTooLargeError, match="1000"):
        packing.pack(ID, send, ("x" * 1_000,), {})
    assert pack(packing, upload(b"x" * 10_000)).uploads


@pytest.mark.parametrize("fails", ["copy", "folder"])
def test_upload_that_cannot_be_written(
    packing: UploadFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A full disk is a JournalError, and nothing is left of the item."""
    if fails == "folder":
        (tmp_path / "uploads").write_text("in its place")
    else:

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(JournalError, match="upload could not be written"):
        packing.pack(ID, send, (upload(), upload()), {})
    assert not (tmp_path / "uploads" / ID).exists()


def test_synced_before_it_is_accepted(
    packing: UploadFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a power cut is to be survived, the file and each folder above it are on disk; else none is."""
    synced: list[str] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    pack(packing, upload())
    folder = tmp_path / "uploads"
    expected = [folder / ID / "0", folder / ID, folder, tmp_path]
    assert synced == (list(map(str, expected)) if packing._sync else [])


def test_forget_and_orphans(packing: UploadFolder, tmp_path: Path) -> None:
    """Files are removed with their item, found by their age, and nothing is raised where there are none."""
    assert packing.orphans(time.time() + 60) == []
    packing.forget(ID)
    pack(packing, upload())
    assert packing.orphans(time.time() - 60) == []
    assert packing.orphans(time.time() + 60) == [ID]
    packing.forget(ID)
    packing.forget(ID)
    assert packing.orphans(time.time() + 60) == []


def test_upload_that_is_gone(packing: UploadFolder) -> None:
    """Arguments whose files somebody has removed cannot be made."""
    entry = pack(packing, upload())
    packing.forget(ID)
    with pytest.raises(FileNotFoundError):
        packing.unpack(entry)


def test_nothing_stays_open(packing: UploadFolder, tmp_path: Path) -> None:
    """When the second upload is gone, the first one does not stay open."""
    entry = pack(packing, upload(), more=upload())
    (tmp_path / "uploads" / ID / "1").unlink()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        packing.unpack(entry)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    "payload",
    ["", "{", "null", "7", "[]", "[[]]", "[[],{},[]]", '[[],[["a"]]]', '["ab",7]', "[7,{}]", "[[],null]"],
)
def test_malformed_payload(packing: UploadFolder, payload: str) -> None:
    """A payload that is no call raises, or gives what does not fit any function."""
    try:
        args, kwargs, _ = packing.unpack(ROW._replace(payload=payload))
    except (TypeError, ValueError):
        return
    assert type(args) is tuple
    with pytest.raises(TypeError):
        (lambda *args, **kwargs: None)(*args, **kwargs)


def test_reference_cannot_leave_the_folder(packing: UploadFolder, tmp_path: Path) -> None:
    """A reference to an upload that was changed in the journal opens no other file."""
    (tmp_path / "secret").write_text("secret")
    entry = pack(packing, upload())
    changed = entry.payload.replace('"n":0', '"n":"../../secret"')
    assert changed != entry.payload
    with pytest.raises(ValueError, match="invalid literal"):
        packing.unpack(entry._replace(payload=changed))


# Rows.


def test_make_row() -> None:
    """A new item's row says all that another process has to know; one with an owner is claimed."""
    task = make_callee(send, name="mail", durable=True).using(
        timeout=3, max_attempts=2, backoff=lambda attempt, error: 1.0, max_crashes=1, key="k"
    )
    item = _item(task)
    free = make_row(item, task, payload="[[1],{}]", uploads=True, due=9.0, owner=None)
    assert (free.id, free.task, free.executor, free.key) == (item.id, "mail", "thread", "k")
    assert json.loads(free.options) == {"timeout": 3, "max_attempts": 2}
    assert (free.payload, free.uploads, free.state, free.due) == ("[[1],{}]", True, None, 9.0)
    assert (free.owner, free.fence, free.max_crashes, free.status) == (None, 0, 1, Status.QUEUED)
    mine = make_row(item, task.using(backoff=2), payload="", uploads=False, due=9.0, owner="1-a")
    assert (mine.owner, mine.fence) == ("1-a", 1)
    assert json.loads(mine.options)["backoff"] == 2


def _item(task: Any) -> Any:
    from flask_background import WorkItem

    from ..helpers import ItemHost

    return WorkItem(task, (), {}, None, ItemHost())


def test_state_of() -> None:
    """No state is None; one that nobody wrote raises."""
    assert state_of(ROW) is None
    for text in ("", "{", "{}", "[]", '{"values": 7}', '{"values": {}, "more": 1}'):
        with pytest.raises((TypeError, ValueError, KeyError)):
            state_of(ROW._replace(state=text))


# Results, errors and progress.


def ended(status: Status, **values: Any) -> ItemRow:
    """An entry of an item that has ended."""
    return ROW._replace(status=status, started=6.0, finished=7.0, attempt=2, **values)


@pytest.mark.parametrize(
    "value", [None, 7, "text", [1, (2,)], {"k": b"bytes"}, {}, {"flask_background.x": "y"}]
)
def test_result(value: Any) -> None:
    """A result comes back as it was, and of the same type."""
    attempt = attempt_of(ended(Status.SUCCEEDED, result=result_as_data(value, 1_000)))
    assert (attempt.value, type(attempt.value), attempt.error) == (value, type(value), None)
    assert (attempt.started, attempt.finished, attempt.number) == (6.0, 7.0, 2)


@pytest.mark.parametrize(
    ("value", "why"), [({1}, "set"), ("x" * 1_000, "BACKGROUND_MAX_PAYLOAD"), (send, "function")]
)
def test_lost_result(value: Any, why: str) -> None:
    """A result that is no data, or too large, is not kept, and reading it says why."""
    attempt = attempt_of(ended(Status.SUCCEEDED, result=result_as_data(value, 1_000)))
    assert isinstance(attempt.error, ResultLostError)
    assert why in str(attempt.error)
    assert attempt.value is None


def test_result_of_those_that_have_none() -> None:
    """An item that has not ended, or not so, has no result, whatever its row says."""
    for status in (Status.QUEUED, Status.RUNNING, Status.CANCELLED):
        assert attempt_of(ended(status, result="7")).value is None
    assert attempt_of(ended(Status.SUCCEEDED)).value is None


def test_error() -> None:
    """A failure comes back with type, message and traceback, whatever the message has in it."""
    try:
        raise LookupError('no "such"\n thing \ud800')
    except LookupError as error:
        text = error_as_data(error, MAX_BYTES)
    failed = attempt_of(ended(Status.FAILED, error=text)).error
    assert isinstance(failed, ItemFailedError)
    assert str(failed) == f'item {ID} (mail) failed with builtins.LookupError: no "such"\n thing \ud800'
    assert "in test_error" in failed.__notes__[0]
    assert text.isascii()


def test_error_that_cannot_be_shown() -> None:
    """An exception whose text raises is written down all the same: its item must not hang for that."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    failed = attempt_of(ended(Status.FAILED, error=error_as_data(Mute(), MAX_BYTES))).error
    assert "Mute" in str(failed)


def test_parked_and_cancelled() -> None:
    """A parked item says why, and a cancelled one that it was cancelled."""
    parked = attempt_of(ended(Status.FAILED, reason="its process died")).error
    assert isinstance(parked, ItemFailedError)
    assert str(parked) == (
        f"item {ID} (mail) was parked: its process died. When the cause is fixed, `flask background"
        f" retry {ID}` runs it again"
    )
    assert isinstance(attempt_of(ended(Status.CANCELLED)).error, ItemCancelledError)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Progress(1, 2, "half"), Progress(1, 2, "half")),
        (Progress(0.5, None, None), Progress(0.5, None, None)),
        (Progress(1, 2, 42), Progress(1, 2, "42")),  # type: ignore[arg-type]
        (Progress(Decimal("0.5"), Fraction(3, 2), ""), Progress(0.5, 1.5, "")),  # type: ignore[arg-type]
        (Progress("half", None, None), Progress("half", None, None)),  # type: ignore[arg-type]
        (Progress({1}, None, None), Progress("{1}", None, None)),  # type: ignore[arg-type]
    ],
)
def test_progress(given: Progress, kept: Progress) -> None:
    """Progress comes back; other numbers are made floats, and a message that is no text is made one."""
    assert attempt_of(ROW._replace(progress=progress_as_data(given, MAX_BYTES))).progress == kept


def test_attempt_of_a_new_one() -> None:
    """Of an item that has not run, nothing is known."""
    attempt = attempt_of(ROW)
    assert (attempt.started, attempt.finished, attempt.number) == (None, None, 0)
    assert (attempt.progress, attempt.value, attempt.error) == (None, None, None)


def test_copy_is_bounded(packing: UploadFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large upload is copied piece by piece, not held in memory."""
    sizes: list[int] = []
    given = upload(b"x" * (3 * module._CHUNK))
    read: Callable[[int], bytes] = given.stream.read
    monkeypatch.setattr(given.stream, "read", lambda size=-1: sizes.append(size) or read(size), raising=False)
    pack(packing, given)
    assert set(sizes) == {module._CHUNK}
