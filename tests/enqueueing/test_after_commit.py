"""``when="commit"``: items of a real database's transactions, with both Flask extensions for SQLAlchemy."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask_sqlalchemy
import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
from flask import request
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from werkzeug.datastructures import FileStorage

from flask_background import Status, Task, WorkItem, current_item
from flask_background.app_state import state_of
from flask_background.errors import ConfigurationError, ItemCancelledError, JournalError, Stopping

from ..helpers import BOUND, Site, lines, until

# A database and a journal for each test.
pytestmark = pytest.mark.process


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """The row that items look for."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Shop:
    """An app with a database, and a task that says which orders it sees."""

    site: Site
    db: Any
    count: Task[[], list[int]]

    @property
    def session(self) -> Session:
        """The session of the current app context."""
        found: Session = self.db.session
        return found


@pytest.fixture(params=["flask_sqlalchemy", "lite"])
def db(request: pytest.FixtureRequest) -> Any:
    """One of the extensions."""
    if request.param == "lite":
        return flask_sqlalchemy_lite.SQLAlchemy()
    return flask_sqlalchemy.SQLAlchemy(model_class=Base)


@pytest.fixture(params=["memory", "durable"])
def shop(
    request: pytest.FixtureRequest, make_site: Callable[..., Site], db: Any, tmp_path: Path
) -> Iterator[Shop]:
    """The app; its items are in memory, or durable."""
    url = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    site = make_site(
        BACKGROUND_JOURNAL=tmp_path / "journal",
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS={"poolclass": sa.NullPool},
        SQLALCHEMY_ENGINES={"default": {"url": url, "poolclass": sa.NullPool}},
    )
    db.init_app(site.app)
    with site.app.app_context():
        Base.metadata.create_all(db.engine)

    @site.background.task(durable=request.param == "durable", when="commit", name="count")
    def count() -> list[int]:
        try:
            return list(db.session.scalars(sa.select(Order.id).order_by(Order.id)))
        finally:
            db.session.rollback()

    yield Shop(site, db, count)
    with site.app.app_context():
        db.engine.dispose()


@pytest.fixture
def context(shop: Shop) -> Iterator[ExitStack]:
    """An app context, which ends when the stack is closed."""
    with ExitStack() as stack:
        stack.enter_context(shop.site.app.app_context())
        yield stack


def expect_dropped(item: WorkItem[Any]) -> None:
    """The item never ran, and its error says why."""
    assert item.status is Status.CANCELLED
    assert item.started_at is None
    with pytest.raises(ItemCancelledError, match="was dropped: its transaction was not committed"):
        item.result(0)


def test_after_the_commit(shop: Shop, context: ExitStack) -> None:
    """An item sees what its transaction wrote; until the commit it is queued."""
    item = shop.count.enqueue()
    shop.session.add(Order(id=7))
    shop.session.flush()
    assert item.status is Status.QUEUED
    assert shop.site.background.get(item.id) is item
    shop.session.commit()
    assert item.result(BOUND) == [7]


def test_once(shop: Shop, context: ExitStack) -> None:
    """A later commit, or rollback, does not concern the items of an earlier one."""
    first = shop.count.enqueue()
    shop.session.commit()
    assert first.result(BOUND) == []
    shop.session.add(Order(id=1))
    second = shop.count.enqueue()
    shop.session.commit()
    assert second.result(BOUND) == [1]
    shop.session.add(Order(id=2))
    shop.session.rollback()
    assert (first.attempt, second.attempt) == (1, 1)


@pytest.mark.parametrize("wrote", [False, True])
def test_rolled_back(shop: Shop, context: ExitStack, caplog: pytest.LogCaptureFixture, wrote: bool) -> None:
    """A rollback drops its items, also when nothing had been written yet; the log names them."""
    if wrote:
        shop.session.add(Order(id=7))
        shop.session.flush()
    item = shop.count.enqueue()
    shop.session.rollback()
    expect_dropped(item)
    shop.session.commit()
    assert lines(caplog, logging.WARNING) == [
        f"Item {item.id} (count) dropped: its transaction was not committed"
    ]


def test_never_committed(shop: Shop, context: ExitStack) -> None:
    """A context that ends without a commit drops its items."""
    item = shop.count.enqueue()
    context.close()
    expect_dropped(item)


def test_failed_flush(shop: Shop, context: ExitStack) -> None:
    """An error of the database that ends the transaction drops its items."""
    shop.session.add(Order(id=7))
    shop.session.commit()
    item = shop.count.enqueue()
    shop.session.add(Order(id=7))
    with pytest.raises(sa.exc.IntegrityError):
        shop.session.commit()
    shop.session.rollback()
    expect_dropped(item)


def test_savepoints(shop: Shop, context: ExitStack) -> None:
    """A savepoint that is undone takes its items with it, and no others."""
    shop.session.add(Order(id=1))
    outer = shop.count.enqueue()
    with shop.session.begin_nested():
        kept = shop.count.enqueue()
    undone = shop.session.begin_nested()
    lost = shop.count.enqueue()
    with shop.session.begin_nested():
        inner = shop.count.enqueue()
    undone.rollback()
    expect_dropped(lost)
    expect_dropped(inner)
    assert outer.status is kept.status is Status.QUEUED
    shop.session.commit()
    assert outer.result(BOUND) == kept.result(BOUND) == [1]


def test_released_savepoint_rolled_back(shop: Shop, context: ExitStack) -> None:
    """A savepoint's release is not yet a commit."""
    with shop.session.begin_nested():
        item = shop.count.enqueue()
    assert item.status is Status.QUEUED
    shop.session.rollback()
    expect_dropped(item)


def test_commit_within_a_savepoint(shop: Shop, context: ExitStack) -> None:
    """A commit of the whole session takes open savepoints with it."""
    shop.session.begin_nested()
    item = shop.count.enqueue()
    shop.session.commit()
    assert item.result(BOUND) == []


def test_view_fails(shop: Shop) -> None:
    """A view that fails before its commit leaves no item."""
    items = []

    @shop.site.app.get("/")
    def view() -> str:
        shop.session.add(Order(id=1))
        items.append(shop.count.enqueue())
        raise KeyError

    assert shop.site.client.get("/").status_code == 500
    expect_dropped(items[0])


def test_state(shop: Shop) -> None:
    """An item has the state of the request that enqueued it."""

    @shop.site.background.task(durable=shop.count.options.durable, when="commit")
    def work() -> str:
        assert current_item.state
        return current_item.state.path

    items = []

    @shop.site.app.get("/orders")
    def view() -> str:
        items.append(work.enqueue())
        shop.session.commit()
        return ""

    shop.site.client.get("/orders")
    assert items[0].result(BOUND) == "/orders"


def test_cancelled_before_the_commit(shop: Shop, context: ExitStack) -> None:
    """An item that is cancelled while it waits does not run."""
    item = shop.count.enqueue()
    assert item.cancel()
    shop.session.commit()
    assert item.status is Status.CANCELLED
    assert shop.site.background.wait_idle(BOUND)
    assert item.started_at is None


def test_delay(shop: Shop, context: ExitStack) -> None:
    """A delayed item waits for the commit and for its time."""
    soon = shop.count.using(delay=0.05).enqueue()
    late = shop.count.using(delay=3600).enqueue()
    assert soon.status is Status.QUEUED
    shop.session.commit()
    assert soon.result(BOUND) == []
    assert late.status is Status.QUEUED
    assert late.cancel()


def test_key(shop: Shop, context: ExitStack, gate: threading.Event) -> None:
    """Of two items with one key only one runs."""

    @shop.site.background.task(durable=shop.count.options.durable, when="commit")
    def work() -> bool:
        return gate.wait(BOUND)

    task = work.using(key="receipt-42")
    first, second = task.enqueue(), task.enqueue()
    shop.session.commit()
    gate.set()
    assert first.result(BOUND)
    if shop.count.options.durable:  # the journal decides, at the commit
        assert second is not first
        with pytest.raises(ItemCancelledError, match=f"item {first.id}, which has the same key"):
            second.result(BOUND)
    else:
        assert second is first
    third = task.enqueue()
    shop.session.rollback()
    expect_dropped(third)
    fourth = task.enqueue()
    shop.session.commit()
    assert fourth.result(BOUND)


def test_upload(shop: Shop, tmp_path: Path) -> None:
    """An upload is moved when it is enqueued; nothing of it stays when its item is dropped."""

    @shop.site.background.task(durable=shop.count.options.durable, when="commit")
    def read(upload: FileStorage) -> bytes:
        return upload.read()

    items = []

    @shop.site.app.post("/")
    def view() -> str:
        items.append(read.enqueue(request.files["picture"]))
        if "keep" in request.args:
            shop.session.commit()
        return ""

    for url in "/", "/?keep":
        shop.site.client.post(url, data={"picture": (io.BytesIO(b"a picture"), "a.png")})
    expect_dropped(items[0])
    assert items[1].result(BOUND) == b"a picture"
    if shop.count.options.durable:
        until(lambda: not list((tmp_path / "journal" / "uploads").iterdir()))


def test_two_sessions(shop: Shop, context: ExitStack) -> None:
    """Each context's items wait for its own session."""
    outer = shop.count.enqueue()
    with shop.site.app.app_context():
        inner = shop.count.enqueue()
        shop.session.commit()
        assert inner.result(BOUND) == []
    assert outer.status is Status.QUEUED
    shop.session.rollback()
    expect_dropped(outer)


def test_refused_before_the_commit(shop: Shop, context: ExitStack) -> None:
    """A refusal comes when the item is enqueued, not when it is too late to roll back."""
    shop.site.background.stop(0)
    with pytest.raises(Stopping):
        shop.count.enqueue()
    shop.session.commit()


@pytest.mark.parametrize("shop", ["durable"], indirect=True)
def test_not_in_the_journal_before_the_commit(shop: Shop, context: ExitStack) -> None:
    """An item that is not committed is not in the journal: a crash leaves nothing that would run."""
    journal = state_of(shop.site.app).durable
    item = shop.count.enqueue()
    assert journal.session.read_row(item.id) is None
    shop.session.commit()
    assert journal.session.read_row(item.id) is not None
    assert item.result(BOUND) == []


@pytest.mark.parametrize("shop", ["durable"], indirect=True)
def test_journal_fails(shop: Shop, context: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit raises the error of a journal that cannot take an item; the database has committed."""
    journal = state_of(shop.site.app).durable

    def fail(*_: Any, **__: Any) -> None:
        raise JournalError("the disk is full")

    shop.session.add(Order(id=1))
    items = [shop.count.enqueue(), shop.count.enqueue()]
    with monkeypatch.context() as patch:
        patch.setattr(journal.session.writer, "write", fail)
        with pytest.raises(JournalError, match="the disk is full"):
            shop.session.commit()
    for item in items:
        with pytest.raises(ItemCancelledError, match="could not be entered: the disk is full"):
            item.result(0)
    after = shop.count.enqueue()
    shop.session.commit()
    assert after.result(BOUND) == [1]


def test_no_database(site: Site) -> None:
    """Without one of the extensions enqueue says what is missing."""
    task = site.background.task(when="commit")(lambda: None)
    with site.app.app_context(), pytest.raises(ConfigurationError, match="initialise Flask-SQLAlchemy"):
        task.enqueue()


def test_outside_of_a_context(shop: Shop) -> None:
    """Without a session, the error of enqueue says what to do."""
    with pytest.raises(ConfigurationError, match=r"outside of its app's context.*app\.app_context\(\)"):
        shop.count.enqueue()
    assert shop.site.background.wait_idle(0)


def test_wrong_option(site: Site) -> None:
    """The error for an unknown ``when`` names the three known ones."""
    with pytest.raises(ConfigurationError, match='"now", "response" or "commit"'):
        site.background.task(when="committed")(lambda: None)  # type: ignore[call-overload]


@pytest.mark.parametrize("shop", ["durable"], indirect=True)
def test_commit_where_nothing_is_run(
    shop: Shop, make_site: Callable[..., Site], db: Any, tmp_path: Path
) -> None:
    """A process that leaves durable items to others leaves committed ones to them, too."""
    url = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    other = make_site(
        BACKGROUND_JOURNAL=tmp_path / "journal",
        BACKGROUND_RUN_IN_WEB=False,
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS={"poolclass": sa.NullPool},
        SQLALCHEMY_ENGINES={"default": {"url": url, "poolclass": sa.NullPool}},
    )
    db.init_app(other.app)
    count = other.background.task(durable=True, when="commit", name="count")(lambda: ["not here"])
    assert shop.count.using(when="now").enqueue().result(BOUND) == []  # it is open where its items are run
    with other.app.app_context():
        shop.session.add(Order())
        item = count.enqueue()
        shop.session.commit()
        assert item.result(BOUND) == [1]
