"""Paused tasks and executors: their durable items wait, in every process, until they are resumed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status, WorkItem, current_item
from flask_background.app_state import state_of
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal.row import ItemRow

from ..helpers import BOUND, Site, lines, until
from .shop import Shop, enqueue

# How long a test waits for what must not happen, in seconds: longer than a process takes to look around.
_LONG = 1.0


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own, and one thread."""
    return make_site(
        BACKGROUND_JOURNAL=tmp_path / "journal",
        BACKGROUND_WORKERS=1,
        BACKGROUND_EXECUTORS={"mail": {"kind": "thread", "workers": 1}},
    )


def row(site: Site, item: WorkItem[Any]) -> ItemRow:
    """The journal's row of an item."""
    found = state_of(site.app).durable.session.writer.read(lambda db: queries.get(db, item.id))
    assert found is not None
    return found


def is_free(site: Site, item: WorkItem[Any]) -> bool:
    """Whether the item waits in the journal, claimed by no process."""
    found = row(site, item)
    return found.status is Status.QUEUED and found.owner is None


@pytest.mark.parametrize(("kind", "name"), [("task", "work"), ("executor", "mail")])
def test_new_items_wait(site: Site, kind: Any, name: str) -> None:
    """Items of a paused task or executor wait from the start, and others run; resumed, all run."""
    ran: list[int] = []
    task = site.background.task(durable=True, name="work", executor="mail")(ran.append)
    other = site.background.task(durable=True, name="other")(lambda: None)
    monitor = site.background.monitor
    assert monitor.pause(kind, name, by="ada")
    assert not monitor.pause(kind, name, by="bob")
    items = [task.enqueue(number) for number in range(3)]
    assert all(is_free(site, item) for item in items)
    for _ in range(5):
        other.enqueue().result(BOUND)
    assert ran == []
    assert [(pause.kind, pause.name, pause.by) for pause in monitor.pauses()] == [(kind, name, "ada")]
    assert monitor.resume(kind, name)
    assert not monitor.resume(kind, name)
    assert all(item.wait(BOUND) for item in items)
    assert ran == [0, 1, 2]
    assert monitor.pauses() == []


def test_claimed_items_are_given_back(site: Site, gate: threading.Event) -> None:
    """A run that has begun goes on; items that wait behind it in this process go back to the journal."""
    ran: list[int] = []

    @site.background.task(durable=True, name="work")
    def work(number: int) -> None:
        ran.append(number)
        assert number < 0 or gate.wait(BOUND)

    work.enqueue(-1).result(BOUND)  # more items than one are claimed ahead for a thread with short runs
    first = work.enqueue(0)
    until(lambda: len(ran) == 2)
    behind = [work.enqueue(number) for number in range(1, 3)]
    assert not all(is_free(site, item) for item in behind)
    site.background.monitor.pause("task", "work")
    until(lambda: all(is_free(site, item) for item in behind))
    gate.set()
    first.result(BOUND)
    assert site.background.wait_idle(BOUND)  # paused items are no work for this process
    assert ran == [-1, 0]
    site.background.monitor.resume("task", "work")
    assert all(item.wait(BOUND) for item in behind)


def test_retries_wait(site: Site, gate: threading.Event) -> None:
    """The next attempt of a failed run waits until the task is resumed."""
    attempts: list[int] = []

    @site.background.task(durable=True, name="work", max_attempts=2, backoff=0.0)
    def work() -> None:
        attempts.append(current_item.attempt)
        assert gate.wait(BOUND)
        if len(attempts) == 1:
            raise ValueError("once more")

    item = work.enqueue()
    until(lambda: attempts)
    site.background.monitor.pause("task", "work")
    gate.set()
    until(lambda: is_free(site, item))
    assert not item.wait(_LONG)
    site.background.monitor.resume("task", "work")
    item.result(BOUND)
    assert attempts == [1, 2]


def test_after_response(site: Site) -> None:
    """Items that wait for their response, or for its commit, do not start after it either."""
    ran: list[str] = []
    task = site.background.task(durable=True, name="work", when="response")(ran.append)
    items: list[WorkItem[Any]] = []

    @site.app.get("/")
    def view() -> str:
        items.append(task.enqueue("before"))
        site.background.monitor.pause("task", "work")
        items.append(task.enqueue("after"))
        return ""

    site.client.get("/").close()
    until(lambda: all(is_free(site, item) for item in items))
    assert ran == []
    site.background.monitor.resume("task", "work")
    assert all(item.wait(BOUND) for item in items)
    assert ran == ["before", "after"]


def test_delayed_items_and_keys(site: Site) -> None:
    """An item that becomes due in a pause waits on; an item with a key stands for those enqueued later."""
    ran: list[int] = []
    task = site.background.task(durable=True, name="work")(ran.append)
    delayed = task.using(delay=0.2).enqueue(0)
    site.background.monitor.pause("task", "work")
    first = task.using(key="one").enqueue(1)
    assert task.using(key="one").enqueue(2).id == first.id
    assert not delayed.wait(_LONG)
    site.background.monitor.resume("task", "work")
    assert delayed.wait(BOUND)
    assert first.wait(BOUND)
    assert sorted(ran) == [0, 1]


def test_periodic_items_do_not_pile_up(site: Site) -> None:
    """One item of a paused periodic task waits, however many times pass."""
    ran: list[float] = []

    @site.background.periodic(seconds=0.1)
    def tick() -> None:
        ran.append(time.monotonic())

    site.background.start()
    until(lambda: ran)
    site.background.monitor.pause("task", tick.name)
    count = len(ran)
    journal = state_of(site.app).durable.session.writer

    def waiting() -> int:
        return sum(found.status is Status.QUEUED for found in journal.read(queries.rows))

    until(waiting)
    time.sleep(_LONG)
    assert waiting() == 1
    assert len(ran) <= count + 1
    site.background.monitor.resume("task", tick.name)
    until(lambda: len(ran) > count + 2)


def test_awaited_item(site: Site) -> None:
    """A paused item that a running one waits for is not claimed for that; resumed, it runs in its place."""
    inner = site.background.task(durable=True, name="inner")(lambda: 42)
    began = threading.Event()

    @site.background.task(durable=True, name="outer")
    def outer() -> int:
        began.set()
        return inner.enqueue().result(BOUND)

    site.background.monitor.pause("task", "inner")
    item = outer.enqueue()
    assert began.wait(BOUND)
    assert not item.wait(_LONG)
    site.background.monitor.resume("task", "inner")
    assert item.result(BOUND) == 42


def test_wanted_item(site: Site) -> None:
    """A claim takes an item that is waited for only if its executor is among those that are not paused."""
    task = site.background.task(durable=True, name="work", executor="mail")(lambda: None)
    site.background.monitor.pause("executor", "mail")
    item = task.enqueue()
    writer = state_of(site.app).durable.session.writer
    claim = partial(statements.claim, owner="1-other", tasks=["work"], now=time.time(), wanted=[item.id])
    assert writer.write(partial(claim, room={"thread": 0})) == []
    assert [found.id for found in writer.write(partial(claim, room={"thread": 0, "mail": 0}))] == [item.id]


def test_in_memory_items_are_not_paused(site: Site) -> None:
    """A pause concerns durable items alone."""
    task = site.background.task(name="work")(lambda: 42)
    durable = site.background.task(durable=True, name="durable")(lambda: None)
    site.background.monitor.pause("task", "work")
    site.background.monitor.pause("executor", "thread")
    waits = durable.enqueue()
    assert task.enqueue().result(BOUND) == 42
    assert is_free(site, waits)


def test_other_process(shop: Shop, make_site: Callable[..., Site]) -> None:
    """No process begins a run once pause has returned, whatever it had claimed; after a restart neither."""
    settings = {"BACKGROUND_JOURNAL": shop.folder / "journal", "BACKGROUND_RUN_IN_WEB": False}
    script = shop.start(
        """
        import threading
        items = [work.enqueue(f"item-{number}") for number in range(3)]
        serve_thread = threading.Thread(target=serve)
        serve_thread.start()
        number = 3
        while not (folder / "enough").exists():
            work.enqueue(f"item-{number}")
            number += 1
            time.sleep(0.01)
        say("enqueued", number)
        serve_thread.join()
        """
    )
    site = make_site(**settings)
    until(lambda: len(shop.runs()) > 10)
    site.background.task(durable=True, name="work")(lambda name: None)
    site.background.monitor.pause("task", "work")
    paused_at = time.time()
    time.sleep(_LONG)
    assert [run for run in shop.runs() if run[2] > paused_at + 0.1] == []
    assert len(shop.runs("end")) == len(shop.runs())
    shop.touch("enough")
    script.wait_for("enqueued")
    shop.touch("stop")
    assert script.ends() == 0
    (shop.folder / "stop").unlink()
    before = len(shop.runs())
    again = shop.start("import logging; logging.basicConfig(level=logging.INFO)", "\n    serve()")
    again.wait_for("The task work is paused: its durable items wait until it is resumed")
    assert len(shop.runs()) == before
    site.background.monitor.resume("task", "work")
    count = len(shop.rows())
    until(lambda: len(shop.runs("end")) == count)
    shop.touch("stop")
    assert again.ends() == 0


def test_mark_that_was_removed(shop: Shop, make_site: Callable[..., Site]) -> None:
    """Without the file that tells of a change at once, a process learns of it when it is woken."""
    script = shop.start("serve()")
    script.wait_for("serves")
    (shop.folder / "journal" / "paused").unlink()
    here = make_site(BACKGROUND_JOURNAL=shop.folder / "journal", BACKGROUND_RUN_IN_WEB=False)
    enqueue(here, "first")
    until(lambda: shop.runs("end"))
    here.background.monitor.pause("task", "work")
    until(lambda: (shop.folder / "journal" / "paused").exists())
    enqueue(here, "second")
    time.sleep(_LONG)
    assert [name for name, *_ in shop.runs()] == ["first"]
    here.background.monitor.resume("task", "work")
    until(lambda: len(shop.runs("end")) == 2)
    shop.touch("stop")
    assert script.ends() == 0


def test_told_once(site: Site, make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """The process that pauses says who has asked for it; other processes of the app say that they obey."""
    caplog.set_level("INFO")
    site.background.task(durable=True, name="work")(lambda: None)
    site.background.monitor.pause("task", "work", by="ada")
    other = make_site(BACKGROUND_JOURNAL=site.app.config["BACKGROUND_JOURNAL"])
    assert state_of(other.app).durable.maintenance.has_looked.wait(BOUND)
    site.background.monitor.resume("task", "work", by="bob")
    until(lambda: not state_of(other.app).durable.pauses.any)
    assert [line for line in lines(caplog) if "work" in line] == [
        "The task work was paused by ada",
        "The task work is paused by ada: its durable items wait until it is resumed",
        "The task work was resumed by bob",
    ]


def test_unknown_names(site: Site) -> None:
    """A name that the app does not have is refused, with those that it has."""
    site.background.task(durable=True, name="work")(lambda: None)
    monitor = site.background.monitor
    with pytest.raises(ValueError, match="there is no task named 'wrok'; there are: work"):
        monitor.pause("task", "wrok")
    with pytest.raises(ValueError, match="no executor named 'fast'; there are: asyncio, mail, thread"):
        monitor.pause("executor", "fast")
    with pytest.raises(ValueError, match="no kind of pause named 'queue'; there are: executor, task"):
        monitor.pause("queue", "work")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no task named 'gone'"):
        monitor.resume("task", "gone")
