"""Uploads of waiting items: they use a share of the descriptors, and leave nothing behind."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from werkzeug.datastructures import FileStorage

from flask_background import WorkItem, current_item
from flask_background.errors import EnqueueError, QueueFull
from flask_background.local import uploads

from ..helpers import BOUND, Site, fill, until

CONTENT = b"picture\n" * 1_000
Make = Callable[..., Site]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, where descriptors are short: waiting uploads may have three."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(uploads.resource, "getrlimit", lambda what: (12, 12))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def large(content: bytes = CONTENT) -> FileStorage:
    """An upload in a file."""
    stream = tempfile.SpooledTemporaryFile(max_size=1)  # noqa: SIM115
    stream.write(content)
    return FileStorage(stream, "a.jpg", "photo")  # type: ignore[arg-type]


def descriptors() -> int:
    """The number of descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_waiting_uploads_use_a_share(make_site: Make, gate: threading.Event, folder: Path) -> None:
    """Waiting uploads use a bounded number of descriptors; each item reads its own to the end."""
    site = make_site(BACKGROUND_WORKERS=1)
    fill(site, gate, 1)
    task = site.background.task(lambda photo, number: (number, photo.read(), photo.filename))
    before = descriptors()
    items = [task.enqueue(large(b"%d" % number * 100), number) for number in range(40)]
    assert descriptors() <= before + 3
    assert len(list(folder.iterdir())) == 37
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    gate.set()
    for number, item in enumerate(items):
        assert item.result(BOUND) == (number, b"%d" % number * 100, "a.jpg")
    assert site.background.wait_idle(BOUND)
    assert descriptors() <= before


def test_small_ones_stay_in_memory(make_site: Make, gate: threading.Event, folder: Path) -> None:
    """Uploads that are in memory use no descriptor and no file."""
    site = make_site(BACKGROUND_WORKERS=1)
    fill(site, gate, 1)
    task = site.background.task(lambda photo: photo.read())
    before = descriptors()
    streams: list[IO[bytes]] = [io.BytesIO(CONTENT) for _ in range(5)]
    for _ in range(5):
        streams.append(tempfile.SpooledTemporaryFile(max_size=1_000_000))  # type: ignore[arg-type] # noqa: SIM115
        streams[-1].write(CONTENT)
    items = [task.enqueue(FileStorage(stream, "a.jpg")) for stream in streams]
    assert descriptors() == before
    assert list(folder.iterdir()) == []
    gate.set()
    assert [item.result(BOUND) for item in items] == [CONTENT] * 10


@pytest.mark.parametrize("how", ["iterate", "save", "with", "seek", "fileno"])
def test_uses_of_an_upload(make_site: Make, gate: threading.Event, folder: Path, how: str) -> None:
    """An upload that was put aside can be used like any other one."""
    site = make_site(BACKGROUND_WORKERS=1)

    def use(photo: FileStorage) -> bytes:
        if how == "iterate":
            return b"".join(photo)
        if how == "save":
            copy = io.BytesIO()
            photo.save(copy)
            return copy.getvalue()
        if how == "with":
            with photo.stream as stream:
                return stream.read()
        if how == "fileno":
            return os.pread(photo.fileno(), 1 << 20, 0)
        photo.seek(0, os.SEEK_END)
        size = photo.tell()
        photo.seek(0)
        return photo.read(size)

    fill(site, gate, 1)
    task = site.background.task(use)
    items = [task.enqueue(large()) for _ in range(5)]
    gate.set()
    assert [item.result(BOUND) for item in items] == [CONTENT] * 5


def test_retries_use_no_descriptors(make_site: Make, gate: threading.Event, folder: Path) -> None:
    """While items wait for their next attempt their uploads are closed; each attempt reads from the start."""
    site = make_site(BACKGROUND_WORKERS=1)

    def flaky(photo: FileStorage) -> bytes:
        content = photo.read()
        if current_item.attempt == 1:
            raise OSError
        return content

    task = site.background.task(max_attempts=2, backoff=0.5)(flaky)
    fill(site, gate, 1)
    before = descriptors()
    items = [task.enqueue(large()) for _ in range(20)]
    gate.set()
    until(lambda: all(item.attempt == 1 and item.status == "queued" for item in items))
    assert descriptors() <= before + 3
    assert [item.result(BOUND) for item in items] == [CONTENT] * 20


@pytest.mark.parametrize("how", ["cancel", "stop", "key", "full"])
def test_nothing_is_left(make_site: Make, gate: threading.Event, folder: Path, how: str) -> None:
    """An upload of an item that never runs, or is refused, leaves no file and counts no more."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=6)
    fill(site, gate, 1)
    task = site.background.task(lambda photo: photo.read())
    if how == "key":
        task = task.using(key="k")
    items: list[WorkItem[Any]] = []
    for _ in range(12):
        upload = large()
        try:
            items.append(task.enqueue(upload))
        except EnqueueError:
            assert upload.read() == CONTENT  # the view has its upload back
            upload.close()
    if how == "cancel":
        for item in items:
            item.cancel()
    if how == "stop":
        site.background.stop(0)
    gate.set()
    assert all(item.wait(BOUND) for item in items)
    assert site.backend._uploads._held == 0


def test_no_space(make_site: Make, gate: threading.Event, folder: Path, monkeypatch: Any) -> None:
    """An item whose upload cannot be put aside is refused, and the view keeps the upload."""
    site = make_site(BACKGROUND_WORKERS=1)
    fill(site, gate, 1)
    task = site.background.task(lambda photo: photo.read())
    items = [task.enqueue(large()) for _ in range(3)]
    upload = large()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(uploads.shutil, "copyfileobj", full)
        with pytest.raises(QueueFull, match="No space left"):
            task.enqueue(upload)
    assert upload.read() == CONTENT
    upload.close()
    gate.set()
    assert [item.result(BOUND) for item in items] == [CONTENT] * 3
