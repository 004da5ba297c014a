"""The handle of a durable item, here and where another process has it, against a journal that is a dict."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from flask_background import Status
from flask_background.core.callee import Callee
from flask_background.core.status import Attempt, Progress
from flask_background.durable import handle as module
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal.row import ItemRow, attempt_of
from flask_background.errors import (
    ItemCancelledError,
    ItemFailedError,
    ItemInterruptedError,
    RecordGoneError,
)

from ..helpers import BOUND, ItemHost, make_callee, slack, until
from .rows import ROW


class Journal(ItemHost):
    """A journal with one row, which counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.row: ItemRow | None = ROW
        self.looks = 0
        self.reports: list[Progress] = []

    def change(self, **values: Any) -> None:
        """Another process has written."""
        assert self.row is not None
        self.row = self.row._replace(**values)

    def look(self, item_id: str) -> ItemRow | None:
        """The row of the item."""
        assert item_id == ROW.id
        self.looks += 1
        return self.row

    def read_attempt(self, row: ItemRow) -> Attempt:
        """The last attempt."""
        return attempt_of(row)

    def report(self, item: DurableItem[Any]) -> None:
        """Remember what was reported."""
        assert item.progress is not None
        self.reports.append(item.progress)


@pytest.fixture
def journal() -> Journal:
    """It has one item, which is queued."""
    return Journal()


@pytest.fixture
def item(journal: Journal) -> DurableItem[Any]:
    """The handle of that, in a process that has nothing to do with it."""
    return DurableItem.of(ROW, Callee.unknown("mail", "thread"), None, journal)


def end(journal: Journal, status: Status = Status.SUCCEEDED, **values: Any) -> None:
    """The item ends in another process."""
    journal.change(status=status, attempt=2, started=6.0, finished=7.0, **values)


def test_new_item_is_here(journal: Journal) -> None:
    """A new item is its process's: nobody looks into the journal for it."""
    item = DurableItem[Any](make_callee(), (1,), {}, None, journal)
    assert (item.status, item.attempt, item.progress) == (Status.QUEUED, 0, None)
    assert (item.started_at, item.finished_at) == (None, None)
    assert not item.wait(0)
    assert (item.here, item.row, journal.looks) == (True, None, 0)


def test_ids_grow_with_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are 24 hexadecimal digits, in the order of time, and no two are the same."""
    ids = []
    for number in range(200):
        monkeypatch.setattr(journal.clock, "time", lambda number=number: 1.7e9 + number // 2)
        ids.append(DurableItem[Any](make_callee(), (), {}, None, journal).id)
    assert len(set(ids)) == 200
    for item_id in ids:
        assert len(item_id) == 24
        int(item_id, 16)
    assert [item_id[:8] for item_id in ids] == sorted(item_id[:8] for item_id in ids)


def test_of_an_entry(item: DurableItem[Any]) -> None:
    """The handle has the row's id and times, and a name also where the task is unknown."""
    assert (item.id, item.task_name, item.here) == (ROW.id, "mail", False)
    assert item.enqueued_at == datetime.fromtimestamp(4.0, UTC)
    assert repr(item) == f"<WorkItem {ROW.id} mail queued>"


def test_every_question_is_asked_anew(journal: Journal, item: DurableItem[Any]) -> None:
    """While the item is elsewhere, what its handle says is what the journal says by then."""
    assert item.status is Status.QUEUED
    journal.change(status=Status.RUNNING, attempt=1, started=6.0, progress='[1,2,"half"]')
    assert item.attempt == 1
    assert item.started_at == datetime.fromtimestamp(6.0, UTC)
    assert item.progress == (1, 2, "half")
    assert item.finished_at is None
    journal.change(status=Status.QUEUED, owner=None)
    assert item.status is Status.QUEUED
    end(journal, result="42")
    assert item.finished_at == datetime.fromtimestamp(7.0, UTC)
    assert (item.status, item.attempt, item.result(0)) == (Status.SUCCEEDED, 2, 42)


def test_ended_is_not_asked_again(journal: Journal, item: DurableItem[Any]) -> None:
    """An end is for good: it is read once, and stays when the journal has let the item go."""
    end(journal, result="42")
    assert item.wait(0)
    looks, journal.row = journal.looks, None
    assert (item.status, item.result(0), item.attempt) == (Status.SUCCEEDED, 42, 2)
    assert journal.looks == looks


@pytest.mark.parametrize(
    ("status", "values", "kind", "text"),
    [
        (Status.FAILED, {"reason": "nobody has it"}, ItemFailedError, "was parked: nobody has it"),
        (
            Status.FAILED,
            {"error": '{"type": "a.B", "message": "c", "trace": "d"}'},
            ItemFailedError,
            "failed with a.B: c",
        ),
        (Status.CANCELLED, {}, ItemCancelledError, "was cancelled"),
    ],
)
def test_errors(
    journal: Journal,
    item: DurableItem[Any],
    status: Status,
    values: dict[str, str],
    kind: type[Exception],
    text: str,
) -> None:
    """``result`` raises what has become of it, and ``exception`` returns that."""
    end(journal, status, **values)
    with pytest.raises(kind, match=text) as caught:
        item.result(0)
    assert item.exception(0) is caught.value


@pytest.mark.parametrize("timeout", [0, 0.0, -1.0, 0.06])
def test_wait_has_an_end(item: DurableItem[Any], timeout: float) -> None:
    """A wait for an item elsewhere ends when its time is up."""
    began = time.monotonic()
    assert not item.wait(timeout)
    assert max(0.0, timeout) <= time.monotonic() - began < 2 + slack()


@pytest.mark.parametrize("timeout", [None, BOUND])
def test_end_elsewhere_wakes(journal: Journal, item: DurableItem[Any], timeout: float | None) -> None:
    """A wait ends when the item does, in whichever process that is."""
    timer = threading.Timer(0.05, end, [journal])
    timer.start()
    assert item.wait(timeout)
    timer.join(BOUND)
    assert item.status is Status.SUCCEEDED


def test_awaited(journal: Journal, item: DurableItem[Any]) -> None:
    """A coroutine can await an item that is elsewhere; the loop goes on meanwhile."""

    async def wait() -> Any:
        asyncio.get_running_loop().call_later(0.05, lambda: end(journal, result="42"))
        return await item

    assert asyncio.run(wait()) == 42


def test_awaited_fails(journal: Journal, item: DurableItem[Any]) -> None:
    """The error of a failed item is raised where the item is awaited."""
    end(journal, Status.FAILED, reason="why")

    async def wait() -> None:
        await item

    with pytest.raises(ItemFailedError, match="why"):
        asyncio.run(wait())


def test_leaves_while_somebody_waits(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for an item here waits on when the item has left, and learns of its end."""
    monkeypatch.setattr(module, "_STAY", 3 * BOUND)
    item = DurableItem[Any](make_callee(), (), {}, None, journal)
    item.id = ROW.id
    ends: list[bool] = []
    waiter = threading.Thread(target=lambda: ends.append(item.wait(3 * BOUND)))
    waiter.start()
    until(lambda: item._waiters)
    item.leave()
    until(lambda: journal.looks >= 2)
    assert ends == []
    end(journal, result="1")
    waiter.join(BOUND)
    assert ends == [True]


def test_comes_back_while_somebody_waits(
    journal: Journal, item: DurableItem[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits for an item elsewhere learns of its end also when the item comes here."""
    monkeypatch.setattr(module, "_STAY", 0.01)
    ends: list[bool] = []
    waiter = threading.Thread(target=lambda: ends.append(item.wait(BOUND)))
    waiter.start()
    until(lambda: journal.looks >= 2)
    item.here = True
    until(lambda: item._waiters)
    assert ends == []
    item._begin(Attempt(1.0))
    item._end((Status.SUCCEEDED, None, None))
    item._announce_end()
    waiter.join(BOUND)
    assert ends == [True]


def test_interrupted_here_is_no_end(journal: Journal, item: DurableItem[Any]) -> None:
    """An item that its process could not finish has not ended: another one will run it."""
    item.here = True
    item._record_interrupted(ItemInterruptedError("time is up"))
    item.leave()
    journal.change(status=Status.QUEUED)
    assert not item.wait(0)
    assert item.status is Status.QUEUED


def test_report(journal: Journal) -> None:
    """The host hears of the progress of a run that is in this process, and of no other one."""
    item = DurableItem[Any](make_callee(), (), {}, None, journal)
    item.id = ROW.id
    item.report_progress(1)
    item._begin(Attempt(1.0))
    item.report_progress(1, 2, "half")
    assert journal.reports == [(1, 2, "half")]
    item.leave()
    item.report_progress(2, 2)
    assert journal.reports == [(1, 2, "half")]


def test_cancel(journal: Journal, item: DurableItem[Any]) -> None:
    """To cancel is the host's part, wherever the item is."""
    assert item.cancel()
    assert journal.cancelled == [item]


@pytest.mark.parametrize("known", [Status.QUEUED, Status.RUNNING])
def test_record_that_is_gone(journal: Journal, item: DurableItem[Any], known: Status) -> None:
    """Where the journal has no record any more every question is an error that says so; no wait hangs."""
    journal.change(status=known)
    assert item.status is known
    journal.row = None
    for ask in (
        lambda: item.status,
        lambda: item.progress,
        lambda: item.attempt,
        lambda: item.started_at,
        lambda: item.finished_at,
        item.wait,
        lambda: item.wait(0),
        item.result,
        item.exception,
        lambda: asyncio.run(awaited(item)),
    ):
        with pytest.raises(RecordGoneError, match="BACKGROUND_KEEP"):
            ask()  # type: ignore[operator]
    assert repr(item) == f"<WorkItem {ROW.id} mail>"


def test_record_goes_while_somebody_waits(journal: Journal, item: DurableItem[Any]) -> None:
    """A wait that is under way when the record goes ends, too."""
    timer = threading.Timer(0.1, setattr, (journal, "row", None))
    timer.start()
    with pytest.raises(RecordGoneError):
        item.wait(BOUND)
    timer.join()


def test_end_that_was_seen_stays(journal: Journal, item: DurableItem[Any]) -> None:
    """A handle that has seen the item's end keeps it, though the record is gone."""
    end(journal, result="42")
    assert item.wait(0)
    journal.row = None
    assert (item.status, item.result(0), item.attempt) == (Status.SUCCEEDED, 42, 2)


async def awaited(item: DurableItem[Any]) -> Any:
    """Await an item."""
    return await item
