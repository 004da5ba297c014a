"""Actions on one item, on all that a query selects, and on schedules; each tells the log who asked for it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage

from flask_background import Status, WorkItem, current_item, signals
from flask_background.app_state import state_of
from flask_background.durable import bulk
from flask_background.durable.bulk import BulkActions
from flask_background.durable.journal import selection
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import ItemQuery

from ..helpers import BOUND, Site, lines, receiving, until

pytestmark = pytest.mark.process


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own, and one thread."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)


@pytest.fixture
def monitor(site: Site) -> Monitor:
    """The app's monitor."""
    return site.background.monitor


def fail(number: int) -> None:
    """Stands for a task that has no luck."""
    raise ValueError(f"no luck with {number}")


def failed(site: Site, count: int, name: str = "mail.send", **options: Any) -> list[WorkItem[Any]]:
    """Items that have failed."""
    task = site.background.task(durable=True, name=name)(fail).using(**options)
    items = [task.enqueue(number) for number in range(count)]
    assert all(item.wait(BOUND) for item in items)
    return items


def statuses(items: list[WorkItem[Any]]) -> list[str]:
    """The statuses of items, as texts."""
    return [str(item.status) for item in items]


def test_cancel_queued_and_running(
    site: Site, monitor: Monitor, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Queued items are cancelled, and running ones asked to end, in the journal and in memory."""
    caplog.set_level("INFO")

    @site.background.task(durable=True, name="work")
    def work() -> None:
        gate.set()
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    in_memory = site.background.task(name="memory")(lambda: None)
    running = work.enqueue()
    assert gate.wait(BOUND)
    items = [work.using(delay=delay).enqueue() for delay in (None, None, 60)]
    items += [in_memory.enqueue(), in_memory.using(delay=60).enqueue()]
    with receiving(signals.item_finished, site.app) as ends:
        assert monitor.cancel([items[0].id, items[3].id, "0" * 24], by="ada") == 2
        assert monitor.cancel(ItemQuery(), by="ada") == 4
        assert all(item.wait(BOUND) for item in [running, *items])
        until(lambda: len(ends) == 6)
    assert statuses([running, *items]) == ["cancelled"] * 6
    assert monitor.cancel(ItemQuery()) == 0
    assert [line for line in lines(caplog) if "items" in line] == [
        f"2 items cancelled ({items[0].id}, {items[3].id}, {'0' * 24}) by ada",
        "4 items cancelled (all) by ada",
        "0 items cancelled (all)",
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ItemQuery(), 6),
        (ItemQuery(status=Status.FAILED), 6),
        (ItemQuery(status=Status.SUCCEEDED), 0),
        (ItemQuery(task="mail.send"), 3),
        (ItemQuery(task="mail.*"), 3),
        (ItemQuery(task="mail"), 0),
        (ItemQuery(text="NO LUCK with 1"), 2),
        (ItemQuery(text="no luck", task="p*"), 3),
        (ItemQuery(executor="thread"), 6),
        (ItemQuery(executor="other"), 0),
        (ItemQuery(key="one"), 1),
        (ItemQuery(since=datetime.now(UTC) + timedelta(hours=1)), 0),
        (ItemQuery(until=datetime.now(UTC) - timedelta(hours=1)), 0),
        (ItemQuery(since=datetime.now(UTC) - timedelta(hours=1), until=datetime.now(UTC) + timedelta(1)), 6),
    ],
)
def test_retry_what_a_query_selects(site: Site, monitor: Monitor, query: ItemQuery, expected: int) -> None:
    """Items that fulfil every condition run again, and no others."""
    failed(site, 3)
    failed(site, 2, "pdf.render")
    failed(site, 1, "pdf.print", key="one")
    with receiving(signals.item_finished, site.app) as ends:
        assert monitor.retry(query) == expected
        assert site.background.wait_idle(BOUND)
        until(lambda: len(ends) == expected)


def test_retry_leaves_out_taken_keys(site: Site, monitor: Monitor, gate: threading.Event) -> None:
    """An item is not retried while another one in flight has its key; it is not counted."""
    fails = [True]

    @site.background.task(durable=True, name="work")
    def make() -> None:
        if fails:
            raise ValueError("no")
        assert gate.wait(BOUND)

    work = make.using(key="one")
    first = work.enqueue()
    assert first.wait(BOUND)
    fails.clear()
    second = work.enqueue()
    assert monitor.retry([first.id]) == 0
    assert monitor.retry(ItemQuery()) == 0
    gate.set()
    second.result(BOUND)
    assert monitor.retry([first.id]) == 1
    first.result(BOUND)


def test_only_items_that_exist_already(site: Site, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An action comes to an end though its items fail again at once, and new ones fail in between."""
    items = failed(site, 25)
    task = site.background.task(durable=True, name="mail.send")(fail)
    late: list[WorkItem[Any]] = []
    parts = BulkActions._parts

    def slow(*args: Any) -> Iterator[list[str]]:
        for part in parts(*args):
            yield part
            assert len(part) <= 5
            late.append(task.enqueue(99))
            assert site.background.wait_idle(BOUND)  # all that were retried have failed again

    monkeypatch.setattr(selection, "_MOST", 10)
    monkeypatch.setattr(bulk, "_MOST", 5)
    monkeypatch.setattr(BulkActions, "_parts", slow)
    assert monitor.retry(ItemQuery(status=Status.FAILED)) == 25
    assert len(late) == 5
    assert statuses([*items, *late]) == ["failed"] * 30


def test_enqueues_in_between(site: Site, monitor: Monitor) -> None:
    """While many items are retried, an item that is enqueued waits for one part of them at most."""
    failed(site, 1_000)
    monitor.pause("task", "mail.send")
    other = site.background.task(durable=True, name="other")(lambda: None)
    retried: list[int] = []
    thread = threading.Thread(target=lambda: retried.append(monitor.retry(ItemQuery())))
    thread.start()
    entered = 0
    while thread.is_alive():
        other.enqueue()
        entered += 1
    thread.join(BOUND)
    assert retried == [1_000]
    assert entered > 10  # one in each of the ten pauses


def test_delete(site: Site, monitor: Monitor, tmp_path: Path) -> None:
    """Items that have ended go, with their uploads; items in flight stay."""

    @site.background.task(durable=True, name="photo")
    def photo(upload: FileStorage) -> None:
        raise ValueError("no photo")

    items = [photo.enqueue(FileStorage(io.BytesIO(b"1"), f"{number}.jpg")) for number in range(3)]
    assert all(item.wait(BOUND) for item in items)
    waits = photo.using(delay=60).enqueue(FileStorage(io.BytesIO(b"1"), "later.jpg"))
    uploads = tmp_path / "journal" / "uploads"
    assert len([*uploads.iterdir()]) == 4
    assert monitor.delete([items[0].id, waits.id]) == 1
    assert monitor.delete(ItemQuery(ended_before=datetime.now(UTC) - timedelta(hours=1))) == 0
    assert monitor.retry(ItemQuery(ended_before=datetime.now(UTC), status=Status.SUCCEEDED)) == 0
    assert monitor.cancel(ItemQuery(ended_before=datetime.now(UTC))) == 0
    assert monitor.delete(ItemQuery(ended_before=datetime.now(UTC), task="mail.*")) == 0
    assert monitor.delete(ItemQuery(ended_before=datetime.now(UTC), task="ph*", text="NO PHOTO")) == 2
    assert [folder.name for folder in uploads.iterdir()] == [waits.id]
    assert site.background.get(items[1].id) is None or items[1].status is Status.FAILED
    assert monitor.cancel([waits.id]) == 1


def test_outbox(site: Site, monitor: Monitor) -> None:
    """Items that wait for another backend are cancelled, retried and deleted, too."""
    box = state_of(site.app).durable.outbox
    for number in range(3):
        box.put(OutboxRow(f"item-{number}", f"mail.{number}", "[[],{}]", "{}", None, None, time.time()))
    assert monitor.cancel(ItemQuery(task="mail.0")) == 1
    assert monitor.cancel(ItemQuery(key="one")) == monitor.cancel(ItemQuery(executor="thread")) == 0
    assert monitor.cancel(["item-1"]) == 1
    assert monitor.retry(ItemQuery(task="mail.*")) == 2
    writer = state_of(site.app).durable.session.writer
    writer.write(lambda db: db.execute("update outbox set status = 'failed', finished = 1, reason = 'Gone'"))
    assert monitor.retry(ItemQuery(text="GONE", task="mail.2")) == 1
    assert monitor.delete(ItemQuery(ended_before=datetime.fromtimestamp(1, UTC))) == 0
    assert monitor.delete(ItemQuery(ended_before=datetime.now(UTC))) == 2
    assert monitor.cancel(ItemQuery()) == 1
    assert monitor.delete(["item-2"]) == 0  # the backend has to learn of the cancellation


def test_run_now(site: Site, monitor: Monitor, gate: threading.Event) -> None:
    """A periodic task runs beside its schedule, unless an item of it waits."""
    ran = threading.Semaphore(0)

    @site.background.periodic(seconds=3_600)
    def tick() -> None:
        ran.release()
        assert gate.wait(BOUND)

    first = monitor.run_now(tick.name, by="ada")
    assert first is not None
    assert ran.acquire(timeout=BOUND)
    assert monitor.run_now(tick.name) is None  # its items do not overlap
    gate.set()
    item = site.background.get(first)
    assert item is not None
    item.result(BOUND)
    monitor.pause("task", tick.name)
    assert monitor.run_now(tick.name) is not None
    assert monitor.run_now(tick.name) is None
    site.background.task(durable=True, name="work")(lambda: None)
    with pytest.raises(ValueError, match=f"there is no periodic task named 'work'; there are: {tick.name}"):
        monitor.run_now("work")


def test_run_now_with_overlap(site: Site, monitor: Monitor, gate: threading.Event) -> None:
    """An item that runs keeps no other from waiting, if the task's items may overlap."""
    ran = threading.Semaphore(0)

    @site.background.periodic(seconds=3_600, overlap=True)
    def tick() -> None:
        ran.release()
        assert gate.wait(BOUND)

    assert monitor.run_now(tick.name) is not None
    assert ran.acquire(timeout=BOUND)
    assert monitor.run_now(tick.name) is not None
    assert monitor.run_now(tick.name) is None


def test_odd_texts(site: Site, monitor: Monitor, caplog: pytest.LogCaptureFixture) -> None:
    """Texts that no item can have select none, and a name is one line in the log, whatever is in it."""
    caplog.set_level("INFO")
    failed(site, 1)
    half = "\ud800"
    assert (
        monitor.retry([half], by="ada\nItem 1 succeeded")
        == monitor.delete([half])
        == monitor.cancel([half])
        == 0
    )
    for query in (ItemQuery(task=half), ItemQuery(key=half), ItemQuery(executor=half), ItemQuery(text=half)):
        assert monitor.retry(query, by=half) == monitor.cancel(query) == monitor.delete(query) == 0
    assert "0 items retried (\ufffd) by ada Item 1 succeeded" in lines(caplog)
    assert "0 items retried (task \ufffd) by \ufffd" in lines(caplog)
    assert monitor.delete([str(number) for number in range(12)]) == 0
    assert "0 items deleted (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more)" in lines(caplog)
    monitor.delete(ItemQuery(status=Status.FAILED, task="mail.*", text="a\nb" * 500))
    line = lines(caplog)[-1]
    assert line.startswith("0 items deleted (status failed, task mail.*, text a ba b")
    assert len(line) < 600
    assert monitor.pause("task", "mail.send", by=half)
    assert monitor.pauses()[0].by == "\ufffd"


def test_without_a_journal(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """An app with items in memory alone makes no journal because somebody acts."""
    site = make_site()
    items = [site.background.enqueue(gate.wait, BOUND) for _ in range(2)]
    monitor = site.background.monitor
    assert monitor.cancel(ItemQuery(status=Status.FAILED)) == 0
    assert monitor.cancel([items[1].id]) <= 1
    assert monitor.retry(ItemQuery()) == monitor.delete(ItemQuery()) == 0
    site.background.task(name="work")(lambda: None)
    with pytest.raises(ValueError, match="the task work cannot be paused: only durable items wait"):
        monitor.pause("task", "work")
    assert not state_of(site.app).has_journal()


def test_manual_backend(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """In a test with the manual backend a periodic task is enqueued there."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_BACKEND="manual")

    @site.background.periodic(seconds=60)
    def tick() -> None:
        pass

    with site.app.app_context():
        assert site.background.monitor.run_now(tick.name) is not None
    assert not (tmp_path / "journal").exists()
