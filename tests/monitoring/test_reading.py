"""What a Monitor shows of items in the journal and in memory, of tasks, schedules, and of the last hours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status, current_item
from flask_background.app_state import state_of
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import ItemQuery, ItemSnapshot

from ..helpers import BOUND, Site, until

pytestmark = pytest.mark.process

HOUR = timedelta(hours=1)


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=2)


@pytest.fixture
def monitor(site: Site) -> Monitor:
    """The app's monitor."""
    return site.background.monitor


def pages(monitor: Monitor, query: ItemQuery = ItemQuery(), limit: int = 3) -> list[ItemSnapshot]:  # noqa: B008
    """All pages."""
    found: list[ItemSnapshot] = []
    after = None
    while True:
        page = monitor.items(query, limit=limit, after=after)
        found += page.items
        after = page.next
        if after is None:
            return found


def change(site: Site, sql: str, *values: object) -> None:
    """Change the journal as nobody should."""
    state_of(site.app).durable.session.writer.write(lambda db: db.execute(sql, values) and None)


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def test_items_of_both_places(site: Site, monitor: Monitor) -> None:
    """Durable items and those in memory are on the same pages, those enqueued last first, each once."""
    durable = site.background.task(durable=True, name="kept", describe=lambda n: f"order {n}")(lambda n: n)
    memory = site.background.task(name="lost", describe=lambda n: f"photo {n}")(lambda n: n)
    items = [(durable if number % 2 else memory).enqueue(number) for number in range(10)]
    assert all(item.wait(BOUND) for item in items)
    found = pages(monitor)
    assert [item.id for item in found] == [item.id for item in reversed(items)]
    assert [item.place for item in found[:2]] == ["journal", "memory"]
    assert [item.description for item in found[:2]] == ["order 9", "photo 8"]
    assert {item.status for item in found} == {Status.SUCCEEDED}
    assert all(item.wait is not None and item.duration is not None for item in found)
    assert monitor.count().items == 10
    assert [item.id for item in pages(monitor, ItemQuery(task="ke*"))] == [
        item.id for item in items[::-1] if item.task_name == "kept"
    ]
    assert monitor.count(ItemQuery(text="ORDER")).items == len(pages(monitor, ItemQuery(text="ORDER"))) == 5
    assert monitor.count(ItemQuery(text="photo", status=Status.SUCCEEDED)).items == 5
    assert not pages(monitor, ItemQuery(until=now() - HOUR))


def test_an_item_with_runs(site: Site, monitor: Monitor) -> None:
    """An item has all of its runs with their tracebacks, the state without secrets, and its progress."""

    @site.background.state_processor
    def values() -> dict[str, Any]:
        return {"user": "Ada", "api_key": "s3cret", "login": {"password": "s3cret", "name": "ada"}}

    @site.background.task(durable=True, name="twice", max_attempts=2, backoff=0)
    def twice() -> None:
        current_item.report_progress(current_item.attempt, 2, "on it")
        raise ValueError(f"run {current_item.attempt}")

    with site.app.test_request_context("/orders/5?token=s3cret", method="POST"):
        item = twice.enqueue()
    assert item.wait(BOUND)
    found = monitor.get(item.id)
    assert found is not None
    assert [(run.attempt, run.how, run.error) for run in found.runs] == [
        (1, "failed", "ValueError: run 1"),
        (2, "failed", "ValueError: run 2"),
    ]
    assert all("run " in (run.traceback or "") for run in found.runs)
    assert found.traceback == found.runs[-1].traceback
    assert (found.attempt, found.max_attempts, found.error) == (2, 2, "ValueError: run 2")
    assert found.progress == (2.0, 2.0, "on it")
    assert "s3cret" not in repr(found)
    assert found.state["values"] == {
        "user": "Ada",
        "api_key": "(hidden)",
        "login": {"password": "(hidden)", "name": "ada"},
    }
    assert (found.state["method"], found.state["url"]) == ("POST", "http://localhost/orders/5")
    assert monitor.retry([item.id]) == 1
    assert until(lambda: (again := monitor.get(item.id)) and len(again.runs) == 4 and again)
    assert monitor.delete([item.id]) == 1
    assert monitor.get(item.id) is None


def test_an_item_in_memory(site: Site, monitor: Monitor, gate: threading.Event) -> None:
    """An item in memory is shown while it runs, and after its end with its traceback."""

    @site.background.task(name="lost")
    def lost() -> None:
        current_item.report_progress(1, 4)
        gate.wait(BOUND)
        raise KeyError("x")

    item = lost.enqueue()
    until(lambda: item.progress)
    found = monitor.get(item.id)
    assert found is not None
    assert (found.status, found.place, found.progress) == (Status.RUNNING, "memory", (1.0, 4.0, None))
    assert (found.runs[0].how, found.process) == ("running", monitor.processes()[0].id)
    gate.set()
    assert item.wait(BOUND)
    found = monitor.get(item.id)
    assert found is not None
    assert (found.status, found.error) == (Status.FAILED, "KeyError: 'x'")
    assert "gate.wait" not in (found.traceback or "")
    assert "KeyError" in (found.traceback or "")


@pytest.mark.parametrize("item_id", ["", "nobody", "0" * 24, "\ud800", "a\0b", "x" * 100_000])
def test_unknown_item(monitor: Monitor, item_id: str) -> None:
    """No item is known by another text."""
    assert monitor.get(item_id) is None


def test_counts(site: Site, monitor: Monitor, gate: threading.Event) -> None:
    """Items are counted by status and place; late ones have been due for a minute."""
    kept = site.background.task(durable=True, name="kept")(lambda: None)
    held = site.background.task(name="held")(lambda: gate.wait(BOUND) and None)
    done = kept.enqueue()
    waiting = [kept.using(delay=3_600).enqueue() for _ in range(3)]
    running = held.enqueue()
    assert done.wait(BOUND)
    until(lambda: running.status is Status.RUNNING)
    counts = monitor.counts()
    assert counts.journal == {Status.SUCCEEDED: 1, Status.QUEUED: 3}
    assert counts.memory == {Status.RUNNING: 1}
    assert (counts.late, counts.oldest_wait) == (0, None)
    monitor.pause("task", "kept")
    change(site, "update item set due = ? where id = ?", time.time() - 100.0, waiting[0].id)
    counts = until(lambda: (seen := monitor.counts()).late and seen)
    assert counts.late == 1
    assert counts.oldest_wait is not None
    assert 99.0 < counts.oldest_wait < 99.0 + BOUND
    (shown,) = [item for item in pages(monitor) if item.id == waiting[0].id]
    assert shown.is_paused
    gate.set()


def test_tally_and_tasks(site: Site, monitor: Monitor) -> None:
    """What ended is counted at once, durable or not, by task and status, with waits and run times."""
    site.background.task(name="unused")(lambda: None)

    @site.background.task(durable=True, name="kept")
    def kept(n: int) -> None:
        if n == 3:
            raise ValueError("the third")

    @site.background.task(name="lost")
    def lost(n: int) -> None:
        kept_alive.wait(0.02)
        if n == 3:
            raise ValueError("the third")

    kept_alive = threading.Event()
    since = now()
    items = [task.enqueue(number) for number in range(5) for task in (kept, lost)]
    assert all(item.wait(BOUND) for item in items)
    assert site.background.wait_idle(BOUND)
    for step in (None, timedelta(minutes=1), HOUR):
        entries = monitor.tally(since, now() + timedelta(minutes=1), step)
        found: dict[tuple[str, Status], int] = {}
        for entry in entries:
            found[entry.task, entry.status] = found.get((entry.task, entry.status), 0) + entry.items
            assert entry.waits.total == entry.runs.total == entry.items
        assert found == {
            (name, status): number
            for name in ("kept", "lost")
            for status, number in ((Status.SUCCEEDED, 4), (Status.FAILED, 1))
        }
    tasks = {task.name: task for task in monitor.tasks()}
    assert sorted(tasks) == ["kept", "lost", "unused"]
    for name in ("kept", "lost"):
        assert (tasks[name].ended, tasks[name].failed, tasks[name].queued) == (5, 1, 0)
        failure = tasks[name].last_failure
        assert failure is not None
        assert failure.error == "ValueError: the third"
    assert (tasks["kept"].is_durable, tasks["lost"].is_durable) == (True, False)
    assert (tasks["lost"].runs.quantile(0.5) or 0.0) > 0.01
    assert not monitor.tally(since - HOUR, since - timedelta(minutes=10))
    assert not monitor.tally(now(), since - HOUR)


def test_tally_of_a_process_that_has_stopped(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """The last items of a process's memory are in the journal when the process has stopped."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    site.background.enable_monitoring(site.app)
    since = now()
    with site.app.app_context():
        assert site.background.monitor.tasks() == []
    for _ in range(3):
        site.background.enqueue(time.sleep, 0).wait(BOUND)
    site.background.stop(5)
    other = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    (entry,) = other.background.monitor.tally(since, now() + timedelta(minutes=1))
    assert (entry.task, entry.status, entry.items) == ("time.sleep", Status.SUCCEEDED, 3)


def test_steps_that_are_over_are_kept(site: Site, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is over is read once; the present one is read each time."""
    item = site.background.task(durable=True, name="kept")(lambda: None).enqueue()
    assert item.wait(BOUND)
    minute = int(time.time() // 60)
    change(site, "update tally set minute = ?", minute - 10)
    period = datetime.fromtimestamp((minute - 30) * 60, UTC), now() + timedelta(minutes=1)

    def count() -> int:
        return sum(entry.items for entry in monitor.tally(*period, timedelta(minutes=1)))

    assert count() == 1
    change(site, "update tally set items = 5")
    assert count() == 1
    change(site, "insert into tally values (?, 'kept', 'failed', 0, 0, 1, 0, 0)", minute)
    assert count() == 2


def test_schedules(site: Site, monitor: Monitor) -> None:
    """Schedules have their next and last times, the last item, and whether this process has the task."""
    task = site.background.periodic(seconds=3_600, name="hourly")(lambda: None)
    assert [(one.task, one.spec) for one in monitor.schedules()] == [("hourly", "Every(seconds=3600)")]
    site.background.start()
    until(lambda: state_of(site.app).durable.session.writer.read(lambda db: db.execute(
        "select 1 from schedule").fetchone()))  # fmt: skip
    change(site, "insert into schedule (name, spec, next) values ('gone', 'Every(seconds=5)', 1e300)")
    run = monitor.run_now("hourly")
    assert run is not None
    found = until(lambda: (one := monitor.schedules()[0]).last_item and one)
    assert (found.task, found.is_known, found.last_item.id) == ("hourly", True, run)  # type: ignore[union-attr]
    assert found.last_at is not None
    assert found.next_at is not None
    assert abs(found.next_at - now()) < HOUR + timedelta(seconds=5)
    gone = monitor.schedules()[-1]
    assert (gone.task, gone.is_known, gone.next_at) == ("gone", False, None)
    until(lambda: (item := site.background.get(run)) and item.status.is_final)
    assert task.name == "hourly"


class Hostile(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


HOSTILE = "<b>\x00\x1b[2J\u202e\ud800\n" + "x" * 5_000


def test_hostile_items(site: Site, monitor: Monitor) -> None:
    """Whatever an item has in its texts and columns, every method answers."""

    @site.background.task(name="lost", describe=lambda: HOSTILE)
    def lost() -> None:
        current_item.report_progress(float("nan"), 10**400, HOSTILE)
        raise Hostile

    @site.background.task(durable=True, name="kept", describe=lambda: HOSTILE, max_attempts=2, backoff=0)
    def kept() -> None:
        current_item.report_progress(1, 2, HOSTILE)
        raise ValueError(HOSTILE)

    items = [lost.enqueue(), kept.enqueue(), kept.enqueue(), kept.enqueue()]
    assert all(item.wait(BOUND) for item in items)
    assert site.background.wait_idle(BOUND)
    change(
        site,
        "update item set error = '{', progress = '[', state = '{}', options = '[]', description = x'ff00',"
        " started = 1e300, due = -1e300, key = char(0) where id = ?",
        items[2].id,
    )
    change(
        site,
        "update item set error = ?, progress = '{\"a\": 1}', state = 'null', options = 'x' where id = ?",
        "[" * 100_000,
        items[3].id,
    )
    change(site, "update ended_run set error = 'x', started = 'yesterday' where id = ?", items[2].id)
    for _ in range(2):
        found = pages(monitor)
        assert {item.id for item in found} == {item.id for item in items}
        for shown in [*found, *(monitor.get(item.id) for item in items)]:
            assert shown is not None
            for text in (shown.description, shown.error, shown.progress and shown.progress.message):
                assert text is None or (len(text) <= 500 and "\n" not in text and "\x1b" not in text)
        assert monitor.count(ItemQuery(text="nowhere")).items == 0
        assert monitor.counts().journal == {Status.FAILED: 3}
        assert {task.name for task in monitor.tasks()} == {"kept", "lost"}
        monitor.schedules()
        monitor.tally(now() - HOUR, now() + HOUR, HOUR)


def test_app_without_a_journal(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """An app with items in memory alone is shown without a journal, and gets none by a look."""
    site = make_site()
    site.app.instance_path = str(tmp_path / "instance")
    monitor = site.background.monitor
    since = now()
    site.background.enqueue(time.sleep, 0).wait(BOUND)
    assert [item.task for item in monitor.items().items] == ["time.sleep"]
    assert monitor.count().items == 1
    assert site.background.wait_idle(BOUND)
    assert [entry.items for entry in monitor.tally(since, now() + timedelta(minutes=1))] == [1]
    assert [task.ended for task in monitor.tasks()] == [1]
    assert monitor.schedules() == []
    assert monitor.counts().memory == {Status.SUCCEEDED: 1}
    assert not (tmp_path / "instance").exists()
    site.background.enable_monitoring(site.app)
    assert monitor.counts().journal == {}
    assert (tmp_path / "instance" / "background-shop" / "journal.sqlite3").exists()
