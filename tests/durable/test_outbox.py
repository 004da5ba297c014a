"""The outbox forwards to whatever backend there is: in order, once, and however long that is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.durable import outbox as module
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.durable.outbox import Outbox
from flask_background.errors import BrokerError

from ..helpers import BOUND, Site, lines, until
from .rows import dead_process_id


class Backend:
    """Another backend, which may be away, refuse some items, and be slow."""

    name = "Elsewhere"

    def __init__(self) -> None:
        self.is_away = False
        self.is_known_to_be_away = False
        self.refused: set[str] = set()
        self.taken: list[OutboxRow] = []
        self.ends: list[OutboxRow] = []
        self.emptied = 0
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    def is_worth_a_try(self) -> bool:
        return not self.is_known_to_be_away

    def nothing_waits(self) -> None:
        self.emptied += 1

    def submit(self, row: OutboxRow) -> None:
        self.asked.set()
        assert self.open.wait(BOUND)
        if self.is_away:
            raise BrokerError("away")
        if row.id in self.refused:
            raise ValueError("too odd")
        self.taken.append(row)

    def tell_end(self, row: OutboxRow) -> None:
        self.ends.append(row)

    def ids(self) -> list[str]:
        """The ids of the items that were sent."""
        return [row.id for row in self.taken]


def waiting(number: int) -> OutboxRow:
    """An item that is to wait."""
    return OutboxRow(f"item-{number}", "mail", "[[],{}]", "{}", None, None, float(number))


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal")


@pytest.fixture
def backend() -> Backend:
    """Where items are forwarded to."""
    return Backend()


@pytest.fixture
def outbox(site: Site, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """The app's outbox, which tries again soon."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.05)
    durable = state_of(site.app).durable
    durable.outbox = durable.maintenance._outbox = Outbox(durable.session, lambda: backend)
    yield durable.outbox
    backend.open.set()
    assert durable.outbox.close(BOUND)


def test_forwarded_in_order(outbox: Outbox, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Each item is sent once, in its order, and then the journal does not know it any more."""
    rows = [waiting(number) for number in range(250)]
    for row in rows:
        outbox.put(row)
    until(lambda: len(backend.taken) >= 250)
    assert backend.ids() == [row.id for row in rows]
    until(lambda: outbox.get("item-249") is None)
    until(lambda: [line for line in lines(caplog) if "forwarded to Elsewhere" in line])


@pytest.mark.parametrize("how", ["is_away", "is_known_to_be_away"])
def test_backend_that_is_away(outbox: Outbox, backend: Backend, how: str) -> None:
    """Items wait as long as it takes, whoever notices first; then all are sent."""
    setattr(backend, how, True)
    for number in range(3):
        outbox.put(waiting(number))
    if how == "is_away":
        assert backend.asked.wait(BOUND)
    assert outbox.get("item-1") is not None
    assert backend.taken == []
    setattr(backend, how, False)
    until(lambda: len(backend.taken) == 3)
    assert backend.ids() == ["item-0", "item-1", "item-2"]


def test_item_that_is_refused(outbox: Outbox, backend: Backend) -> None:
    """An item that the backend refuses for its own sake holds up no other one, and fails in the end."""
    backend.refused.add("item-0")
    for number in range(3):
        outbox.put(waiting(number))
    until(lambda: backend.ends)
    assert backend.ids() == ["item-1", "item-2"]
    (end,) = backend.ends
    assert (end.id, end.status) == ("item-0", Status.FAILED)
    assert end.reason == "it could not be forwarded to Elsewhere: too odd"
    found = outbox.get("item-0")
    assert found is not None
    assert (found.status, found.reason) == (Status.FAILED, end.reason)


def test_cancelled_while_it_waits(outbox: Outbox, backend: Backend) -> None:
    """A cancelled item is not sent; the backend is told, once, for it may have got the item before."""
    backend.is_known_to_be_away = True
    outbox.put(waiting(0))
    assert outbox.cancel("item-0") == "cancelled"
    assert outbox.cancel("item-0") is None
    backend.is_known_to_be_away = False
    until(lambda: backend.taken)
    assert [row.status for row in backend.taken] == [Status.CANCELLED]
    until(lambda: outbox.get("item-0") is None)
    assert backend.ends == []


@pytest.mark.parametrize("arrives", [True, False])
def test_cancelled_while_it_is_sent(outbox: Outbox, backend: Backend, arrives: bool) -> None:
    """If the backend has got it, the backend is told; if not, it is cancelled, and that is announced."""
    backend.open.clear()
    outbox.put(waiting(0))
    assert backend.asked.wait(BOUND)
    assert outbox.cancel("item-0") == "asked"
    backend.is_away = not arrives
    backend.open.set()
    if arrives:
        until(lambda: len(backend.taken) == 2)
        assert [row.cancel for row in backend.taken] == [False, True]
    else:
        until(lambda: backend.ends)
        assert [row.status for row in backend.ends] == [Status.CANCELLED]
        backend.is_away = False
        until(lambda: backend.taken)
        assert [row.status for row in backend.taken] == [Status.CANCELLED]


def test_process_that_is_killed(outbox: Outbox, backend: Backend, site: Site) -> None:
    """A process sends the items that a dead process had claimed."""
    backend.is_known_to_be_away = True
    outbox.put(waiting(0))
    writer = state_of(site.app).durable.session.writer
    writer.write(lambda db: module.outbox.claim(db, dead_process_id(), 10))
    backend.is_known_to_be_away = False
    durable = state_of(site.app).durable
    durable.maintenance._look_over(0.0)
    durable.session.wake_self()
    until(lambda: backend.taken)
    assert backend.ids() == ["item-0"]


def test_unknown_ids(outbox: Outbox) -> None:
    """An id that nobody has given out is not there, whatever it is made of."""
    for item_id in ("nothing", "", "\ud800"):
        assert outbox.get(item_id) is None


def test_nobody_forwards(
    make_site: Callable[..., Site], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Items for a backend that the app has no more wait, and the log says so once."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    durable: Any = state_of(site.app).durable
    durable.outbox.put(waiting(0))
    for _ in range(2):
        durable.maintenance._look_over(0.0)
    (line,) = (line for line in lines(caplog) if "another backend" in line)
    assert line.startswith("1 item in the journal waits to be forwarded")
    found = durable.outbox.get("item-0")
    assert found is not None
    assert found.status is Status.QUEUED
