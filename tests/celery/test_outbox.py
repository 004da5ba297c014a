"""Durable items where Celery cannot be reached: none is lost, and none runs beside itself."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_background import Status, WorkItem, signals
from flask_background.app_state import state_of
from flask_background.errors import BrokerError, ItemCancelledError, ItemFailedError, NotFinishedError

from ..helpers import BOUND, Script, Site, lines, receiving, slack, until
from . import shop
from .conftest import Redis, Worker

MakeWorker = Callable[..., Worker]
MakeApp = Callable[..., Flask]

# How long an item may take that comes through the outbox, in seconds: the worker has to find Redis again.
LONG = 60.0


pytestmark = pytest.mark.usefixtures("redis_returns")


@pytest.fixture
def publish_timeout() -> float:
    """Processes wait for Celery as long as by default."""
    return 2.0


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The machine's journal."""
    return tmp_path / "journal"


@pytest.fixture
def app(make_app: MakeApp, journal: Path) -> Iterator[Flask]:
    """A web process of that machine, which only enqueues."""
    app = make_app(journal=journal, run_in_web=False, kill_after=0.5)
    with app.app_context():
        yield app


def rows(journal: Path) -> dict[str, int]:
    """The number of rows in the journal's outbox, by status."""
    with sqlite3.connect(journal / "journal.sqlite3") as db:
        found = dict(db.execute("select status, count(*) from outbox group by 1").fetchall())
    db.close()
    return found


def ring(app: Flask) -> None:
    """Have the process look at its journal now, as it does every few seconds."""
    state_of(app).durable.session.wake_self()


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_broker_is_lost_and_found(
    app: Flask,
    redis: Redis,
    make_worker: MakeWorker,
    journal: Path,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broker that is gone or hangs holds up one view; items that wait are sent as they were enqueued."""
    task = shop.book.using(timeout=20)
    assert task.enqueue(0).status is Status.QUEUED
    assert not journal.exists()
    getattr(redis, how)()
    began = time.monotonic()
    with receiving(signals.item_enqueued, app) as enqueued:
        first = task.enqueue(1)
        assert time.monotonic() - began < 2.5 + slack()  # 2, and what a busy machine needs
        began = time.monotonic()
        more = [task.enqueue(number) for number in range(2, 22)]
    assert time.monotonic() - began < 2.0 + slack()  # of a hung one, each would take 0.4 s and more
    assert enqueued == [{"item": item} for item in (first, *more)]
    assert first.status is Status.QUEUED
    assert not first.wait(0.05)
    with pytest.raises(NotFinishedError):
        first.result(0)
    with app.test_request_context("/cart", headers={"traceparent": "00-1"}):
        curious = shop.look_around.using(durable=True, delay=0.1).enqueue()
    flaky = shop.flaky.using(durable=True, max_attempts=2, backoff=0).enqueue()
    assert shop.background.get(first.id) is first
    assert shop.background.items() == []
    with pytest.raises(BrokerError):
        shop.echo.enqueue(1)
    redis.resume() if how == "pause" else redis.start()
    began = time.monotonic()
    until(lambda: not rows(journal))
    assert time.monotonic() - began < 10
    make_worker()
    assert [item.result(LONG) for item in (first, *more)] == list(range(1, 22))
    seen = curious.result(BOUND)
    assert (seen["path"], seen["trace"], seen["attempt"], seen["id"]) == ("/cart", "00-1", 1, curious.id)
    assert "not yet" in str(flaky.exception(BOUND))
    assert flaky.attempt == 2
    told = [line for line in lines(caplog) if "Celery" in line and "was refused" not in line]
    assert [line[:24] for line in told] == [
        "Celery cannot be reached",
        "Celery is reached again,",
        "23 items that waited in ",
    ]


@pytest.mark.timeout(300)
def test_no_item_is_lost_under_load(
    make_app: MakeApp, redis: Redis, make_worker: MakeWorker, journal: Path
) -> None:
    """Of a thousand that are enqueued while the broker goes and comes, every one is run to its end."""
    options = {"broker_transport_options": {"visibility_timeout": 10}}
    workers = [make_worker(celery=options, kill_after=0.5)]
    workers[0].wait_until_ready()

    def keep_one() -> None:
        """Start another worker if this one has ended, as a process manager does."""
        if workers[-1].process.poll() is not None:
            workers.append(make_worker(celery=options, kill_after=0.5))

    items: list[WorkItem[Any]] = []
    with make_app(celery=options, journal=journal, kill_after=0.5, run_in_web=False).app_context():
        for number in range(1_000):
            if number in (250, 700):
                redis.stop()
            elif number in (500, 850):
                redis.start()
            items.append(shop.book.enqueue(number))
        for item in items:
            until(lambda item=item: keep_one() or item.wait(0.2), LONG)  # type: ignore[misc]
        assert [item.result(0) for item in items] == list(range(1_000))
    assert rows(journal) == {}
    assert not [line for line in workers[0].notes if "twice" in line]
    assert len({line for line in workers[0].notes if "done" in line}) == 1_000


ENQUEUE = """
    import os, signal, sys
    from pathlib import Path
    from flask_background.durable.journal import outbox
    from flask_background.app_state import state_of
    from tests.celery import shop
    app = shop.create_app(
        BACKGROUND_CELERY={urls!r}, BACKGROUND_JOURNAL=Path({journal!r}), BACKGROUND_RUN_IN_WEB=False
    )
    """


@pytest.fixture
def process(redis: Redis, journal: Path, script: Callable[..., Script]) -> Callable[..., Script]:
    """Starts processes of that machine's app, which run the given sources."""
    urls = {"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}

    def start(*sources: str) -> Script:
        program: Script = script(ENQUEUE.format(urls=urls, journal=str(journal)), *sources)
        return program

    return start


LOOK = """
    state_of(app).look_for_work()
    print("looks", flush=True)
    signal.pause()
    """


def test_killed_between_publish_and_delete(
    app: Flask, redis: Redis, make_worker: MakeWorker, process: Callable[..., Script], journal: Path
) -> None:
    """The message comes twice, and the second one is left alone, also while the first one's run goes on."""
    redis.stop()
    item = shop.hold.using(durable=True).enqueue("once")
    quick = [shop.book.enqueue(number) for number in range(50)]
    shop.background.stop(0)
    redis.start()
    die = "outbox.settle = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)\n"
    killed = process(die, LOOK)
    assert killed.ends() == -signal.SIGKILL
    assert rows(journal) == {"queued": 51}
    assert redis.length("celery") == 51
    worker = make_worker()
    worker.wait_for_note("once runs")
    worker.wait_for_note("done", count=50)
    process(LOOK)
    until(lambda: not rows(journal))
    assert [item.result(LONG) for item in quick] == list(range(50))
    assert item.status is Status.RUNNING
    worker.let_go("once")
    assert item.result(BOUND) == "once"
    until(lambda: redis.length("celery") == 0)
    assert item.attempt == 1
    assert len([line for line in worker.notes if "once runs" in line]) == 1
    assert not [line for line in worker.notes if "twice" in line]


@pytest.mark.timeout(300)
def test_killed_at_random(
    app: Flask, redis: Redis, make_worker: MakeWorker, process: Callable[..., Script], journal: Path
) -> None:
    """Processes that hand over are killed wherever they are: nothing is lost, nothing runs beside itself."""
    redis.stop()
    items = [shop.book.using(max_crashes=1).enqueue(number) for number in range(300)]
    shop.background.stop(0)
    redis.start()
    worker = make_worker()
    worker.wait_until_ready()
    kills = 0
    while rows(journal) and kills < 5:
        program = process(LOOK)
        program.wait_for("looks")
        time.sleep(random.uniform(0, 0.3))
        program.kill()
        kills += 1
    process(LOOK)
    assert [item.result(LONG) for item in items] == list(range(300))
    assert kills > 1
    assert not [line for line in worker.notes if "twice" in line]


def test_restart_of_everything(
    redis: Redis, make_worker: MakeWorker, process: Callable[..., Script], journal: Path
) -> None:
    """Items that a killed process has left are sent by the next process that starts."""
    redis.stop()
    program = process(
        """
        with app.app_context():
            for number in range(20):
                print(shop.book.enqueue(number).id, flush=True)
        print("complete", flush=True)
        signal.pause()
        """
    )
    program.wait_for("complete")
    program.kill()
    redis.start()
    worker = make_worker()
    worker.wait_until_ready()
    assert rows(journal) == {"queued": 20}
    process(LOOK)
    worker.wait_for_note("done", count=20)
    ids = re.findall(r"^[0-9a-f]{24}$", program.said, re.MULTILINE)
    reader = process(
        f"""
        with app.app_context():
            print([shop.background.get(item_id).result(20) for item_id in {ids}], flush=True)
        """
    )
    assert reader.ends() == 0, reader.said
    assert str(list(range(20))) in reader.said


def test_cancel(app: Flask, make_app: MakeApp, redis: Redis, make_worker: MakeWorker, journal: Path) -> None:
    """An item that is cancelled while it waits never runs, and every process knows of that afterwards."""
    redis.stop()
    mine, others, last = (shop.book.enqueue(number) for number in range(3))
    with receiving(signals.item_finished, app) as finished:
        assert mine.cancel()
    assert finished == [{"item": mine}]
    assert (mine.status, mine.cancel()) == (Status.CANCELLED, False)
    with pytest.raises(ItemCancelledError):
        mine.result(0)
    with make_app(journal=journal).app_context():
        found = shop.background.get(others.id)
        assert found is not None
        assert (found.status, found.task_name, found.attempt) == (Status.QUEUED, others.task_name, 0)
        assert found.cancel()
    until(lambda: others.status is Status.CANCELLED)  # somebody may have been about to hand it over
    redis.start()
    ring(app)
    worker = make_worker()
    assert last.result(LONG) == 2
    assert worker.notes == ["book 2 done"]
    until(lambda: not rows(journal))
    with make_app(journal=journal.with_name("another machine's")).app_context():
        for item in (mine, others):
            known = shop.background.get(item.id)
            assert known is not None
            assert known.status is Status.CANCELLED


def test_cancel_while_it_is_handed_over(
    app: Flask, redis: Redis, monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    """The process that sends an item hears of its cancellation after that, and announces it."""
    sender = state_of(app).celery.sender
    send = sender._send
    redis.stop()
    item = shop.book.enqueue(1)

    def send_and_cancel(entry: Any) -> None:
        send(entry)
        assert item.cancel()

    monkeypatch.setattr(sender, "_send", send_and_cancel)
    with receiving(signals.item_finished, app) as finished:
        redis.start()
        until(lambda: not rows(journal))
    assert [each["item"].id for each in finished] == [item.id]
    assert item.status is Status.CANCELLED


def test_with_the_response_and_the_commit(
    make_app: MakeApp, redis: Redis, make_worker: MakeWorker, journal: Path
) -> None:
    """An item that has waited for its response or commit waits for the broker after that."""
    from flask_sqlalchemy import SQLAlchemy

    app = make_app(journal=journal)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    items = []

    @app.get("/")
    def view() -> str:
        items.append(shop.book.using(when="response").enqueue(1))
        return "done"

    client = app.test_client()
    redis.stop()
    with client.get("/"):
        assert not journal.exists()
    with app.app_context():
        items.append(shop.book.using(when="commit", delay=0.1).enqueue(2))
        assert rows(journal) == {"queued": 1}
        db.session.commit()
        db.session.remove()
        db.engine.dispose()
    assert rows(journal) == {"queued": 2}
    assert [item.status for item in items] == [Status.QUEUED] * 2
    redis.start()
    make_worker()
    assert [item.result(LONG) for item in items] == [1, 2]


def test_neither_broker_nor_journal(make_app: MakeApp, redis: Redis, tmp_path: Path) -> None:
    """One error names both the broker and the journal."""
    (tmp_path / "file").write_text("no folder")
    app = make_app(journal=tmp_path / "file" / "journal")
    redis.stop()
    with (
        app.app_context(),
        receiving(signals.item_refused, app) as refused,
        pytest.raises(BrokerError, match=r"Connection refused.*journal in .* cannot be used") as raised,
    ):
        shop.book.enqueue(1)
    assert [each["error"] for each in refused] == [raised.value]


def test_what_cannot_be_sent(make_app: MakeApp, redis: Redis, journal: Path) -> None:
    """A view gets the error at once; a waiting item is parked at last, and does not hold up the others."""
    wrong: list[str] = []

    def route(name: str, *_: Any, **__: Any) -> None:
        if name in wrong:
            raise ValueError("no way to there")

    with make_app(journal=journal, celery={"task_routes": [route]}).app_context():
        redis.stop()
        poison, good = shop.look_around.using(durable=True).enqueue(), shop.book.enqueue(1)
        wrong.append(shop.look_around.name)
        redis.start()
        until(lambda: rows(journal) == {"failed": 1})
        assert isinstance(poison.exception(0), ItemFailedError)
        assert "no way to there" in str(poison.exception(0))
        assert good.status is Status.QUEUED
        assert not rows(journal).get("queued")
        with pytest.raises(BrokerError, match="cannot send the item: ValueError: no way to there"):
            shop.look_around.using(durable=True).enqueue()


def test_messages_of_one_item(app: Flask, redis: Redis, make_worker: MakeWorker) -> None:
    """Of many messages of one item one run at a time is made."""
    worker = make_worker("--concurrency", "4")
    worker.wait_until_ready()
    celery = state_of(app).celery.session

    def send_again(item: Any) -> None:
        for _ in range(4):
            celery.publisher.send(item.id, celery.records.read(item.id), with_record=False)

    items = []
    for number in range(40):
        items.append(shop.book.enqueue(number, 0.05))
        send_again(items[-1])
    lost = shop.die.enqueue(1)
    send_again(lost)
    slow = shop.flaky.using(backoff=2).enqueue()
    until(lambda: celery.records.read(slow.id).due)
    send_again(slow)
    assert [item.result(LONG) for item in items] == list(range(40))
    assert (lost.result(LONG), slow.result(LONG)) == (2, 3)
    assert slow.finished_at is not None
    assert (slow.finished_at - slow.enqueued_at).total_seconds() >= 4
    until(lambda: redis.length("celery") == 0)
    assert not [line for line in worker.notes if "twice" in line]
    notes = Counter(worker.notes)
    assert [notes[f"book {number} done"] for number in range(40)] == [1] * 40
    assert [notes[f"attempt {number}"] for number in (1, 2, 3)] == [1, 1, 1]
    assert [notes[f"dies {number}"] for number in (1, 2)] == [1, 1]


def test_a_workers_own_outbox(app: Flask, redis: Redis, make_worker: MakeWorker, journal: Path) -> None:
    """An item that was enqueued in a worker that dies is sent by the next worker on that machine."""
    redis.stop()
    last = shop.book.enqueue(1)
    shop.background.stop(0)
    redis.start()
    assert rows(journal) == {"queued": 1}
    worker = make_worker(journal=str(journal))
    assert last.result(LONG) == 1
    until(lambda: not rows(journal))
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(BOUND) == 0, worker.log


def test_result_backend_is_lost(
    make_app: MakeApp, redis: Redis, tmp_path: Path, journal: Path, make_worker: MakeWorker
) -> None:
    """An item waits as well if its message could be sent, but not its record."""
    (tmp_path / "results").mkdir()
    results = Redis(tmp_path / "results")
    try:
        options = {"result_backend": f"{results.url}/0"}
        results.stop()
        with make_app(journal=journal, celery=options).app_context():
            item = shop.book.enqueue(1)
            assert item.status is Status.QUEUED
            assert rows(journal) == {"queued": 1}
            assert redis.length("celery") == 0
            results.start()
            make_worker(celery=options)
            assert item.result(LONG) == 1
    finally:
        results.stop()


def test_celery_is_taken_away(
    app: Flask,
    redis: Redis,
    make_site: Callable[..., Site],
    journal: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Items that wait for a Celery that no process has any more go on waiting, and the log says so."""
    redis.stop()
    item = shop.book.enqueue(1)
    shop.background.stop(0)
    site = make_site(BACKGROUND_JOURNAL=journal)
    site.background.task(name=item.task_name, durable=True)(len)
    with site.app.app_context():
        state_of(site.app).look_for_work()
        until(lambda: [line for line in lines(caplog) if "to be forwarded to another backend" in line])
    assert rows(journal) == {"queued": 1}


def test_under_gevent(script: Callable[..., Script], redis: Redis, journal: Path) -> None:
    """Native threads hand over the items of greenlets, again and again, by connections of their own."""
    gone = journal.parent / "gone"
    urls = {"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}
    program = script(
        f"""
        from gevent import monkey, sleep
        monkey.patch_all()
        from pathlib import Path
        from tests.celery import shop
        gone = Path({str(gone)!r})
        app = shop.create_app(
            BACKGROUND_CELERY={urls}, BACKGROUND_JOURNAL={str(journal)!r}, BACKGROUND_RUN_IN_WEB=False
        )
        with app.app_context():
            for number in range(2):
                shop.echo.enqueue(number)
                print("there", number, flush=True)
                while not gone.exists():
                    sleep(0.02)
                item = shop.book.enqueue(number)
                print("waits", number, flush=True)
                while item.in_outbox:
                    item.status
                    sleep(0.05)
                print("handed over", number, flush=True)
        """
    )
    for number in range(2):
        until(lambda number=number: f"there {number}" in program.said, 30)  # type: ignore[misc]
        redis.stop()
        gone.touch()
        until(lambda number=number: f"waits {number}" in program.said, 30)  # type: ignore[misc]
        gone.unlink()
        redis.start()
        until(lambda number=number: f"handed over {number}" in program.said, 30)  # type: ignore[misc]
    assert program.ends() == 0, program.said
