"""The contract of batches: all calls are enqueued, or none, in memory and in the journal."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from flask import request
from werkzeug.datastructures import FileStorage

from flask_background import Status, WorkItem, current_item, signals
from flask_background.errors import (
    ArgumentError,
    ConfigurationError,
    QueueFull,
    SerializationError,
    Stopping,
    UnsupportedError,
)
from flask_background.testing import record_items, run_items

from ..helpers import BOUND, Site, receiving, until
from .conftest import Shop, but_celery


@but_celery
def test_in_order(shop: Shop) -> None:
    """The items come back in the order of the calls, whatever their tasks and options; each runs."""
    double = shop.task(lambda value: 2 * value, "shop.double")
    join = shop.task(lambda *parts, end="": "".join(parts) + end, "shop.join")
    calls = [double.call(1), join.call("a", "b", end="!"), double.using(delay=0.1).call(2), double.call(3)]
    with receiving(signals.item_enqueued, shop.app) as enqueued:
        items = shop.background.enqueue_many(iter(calls))
    assert [item.result(BOUND) for item in items] == [2, "ab!", 4, 6]
    assert {event["item"] for event in enqueued} == set(items)
    assert shop.background.enqueue_many([]) == []
    assert repr(calls[0]) == "<Call shop.double>"


def test_together(shop: Shop, gate: threading.Event) -> None:
    """Thousands of calls are entered at once, and each runs once."""
    seen: list[int] = []
    task = shop.task(seen.append)
    began = time.monotonic()
    items = shop.background.enqueue_many(task.call(number) for number in range(2_000))
    assert time.monotonic() - began < BOUND / 10
    assert len({item.id for item in items}) == 2_000
    assert shop.background.wait_idle(BOUND)
    until(lambda: len(seen) == 2_000)
    assert sorted(seen) == list(range(2_000))


def test_request(shop: Shop) -> None:
    """The items of a batch share the state of the request."""
    task = shop.task(lambda: None)
    with shop.app.test_request_context("/many"):
        items = shop.background.enqueue_many([task.call(), task.call()])
    assert [item.state.path for item in items] == ["/many"] * 2


def test_keys(shop: Shop, gate: threading.Event) -> None:
    """A call whose key is in flight, perhaps by an earlier call of the batch, gets the item that has it."""
    task = shop.holding(gate)
    one = task.using(key="one").enqueue(1)
    calls = [
        task.using(key=key).call(value) for key, value in (("one", 2), ("two", 3), ("two", 4), (None, 5))
    ]
    items = shop.background.enqueue_many(calls)
    assert items[0].id == one.id
    assert items[1].id == items[2].id
    assert items[1].id != items[3].id
    gate.set()
    assert [item.result(BOUND) for item in items] == [1, 3, 3, 5]


def test_uploads(shop: Shop) -> None:
    """Uploads are taken over by a batch, and given back if it is refused."""
    task = shop.task(lambda upload: upload.read().decode())
    uploads = [FileStorage(io.BytesIO(text), "a.txt") for text in (b"one", b"two")]
    with pytest.raises(ArgumentError, match=r"calls\[2\] \(shop.work\)"), shop.app.test_request_context():
        shop.background.enqueue_many([*map(task.call, uploads), task.call(request)])
    assert [upload.read() for upload in uploads] == [b"one", b"two"]
    items = shop.background.enqueue_many(map(task.call, uploads))
    assert [item.result(BOUND) for item in items] == ["one", "two"]


def test_one_is_refused(shop: Shop) -> None:
    """One bad argument refuses the whole batch, and the error names its call."""
    seen: list[Any] = []
    task = shop.task(seen.append)
    bad: Callable[[], Any] = lambda: task.call(request)  # noqa: E731
    with (
        shop.app.test_request_context(),
        pytest.raises(ArgumentError, match=r"calls\[1\] \(shop.work\): .*none"),
    ):
        shop.background.enqueue_many([task.call(1), bad(), task.call(2)])
    if shop.durable:
        with pytest.raises(SerializationError, match=r"calls\[2\] \(shop\.work\): "):
            shop.background.enqueue_many([task.call(1), task.call(2), task.call({3})])
    assert shop.background.items() == []
    assert shop.background.wait_idle(BOUND)
    assert seen == []


def test_no_calls(shop: Shop, make_site: Callable[..., Site]) -> None:
    """What is no call of this Background's tasks is named, and so are options that a batch cannot have."""
    task = shop.task(lambda value=None: None)
    with pytest.raises(TypeError, match=r"calls\[1\] is of the type tuple"):
        shop.background.enqueue_many([task.call(), (1,)])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        task.call(1, 2)
    stranger = make_site("other").background.task(lambda: None)
    with pytest.raises(ConfigurationError, match="another Background"):
        shop.background.enqueue_many([stranger.call()])
    for when in ("response", "commit"):
        with pytest.raises(UnsupportedError, match=rf'calls\[0\] .* has when="{when}"'):
            shop.background.enqueue_many([task.using(when=when).call()])  # type: ignore[arg-type]
    assert shop.background.items() == []


def test_after_the_stop(shop: Shop) -> None:
    """A stopped process refuses a batch as it refuses an item in memory."""
    task = shop.task(lambda: None)
    shop.background.enqueue(lambda: None).result(BOUND)
    shop.background.stop(0)
    if not shop.durable:
        with pytest.raises(Stopping):
            shop.background.enqueue_many([task.call(), task.call()])
        assert shop.background.stats().queued == 0


def test_recorded(shop: Shop) -> None:
    """A test that records what is enqueued sees the items of batches, and none of a refused one."""
    task = shop.task(lambda value: None)
    with record_items(shop.app) as recorded:
        items = shop.background.enqueue_many([task.call(1), task.using(key="a").call(2)])
        with shop.app.test_request_context(), pytest.raises(ArgumentError):
            shop.background.enqueue_many([task.call(3), task.call(request)])
    assert [(record.item, record.args) for record in recorded] == [(items[0], (1,)), (items[1], (2,))]
    assert shop.background.wait_idle(BOUND)


def test_around_each_call(shop: Shop) -> None:
    """The functions around an enqueue enclose each call, in its own context; describe works."""
    seen: list[Any] = []
    current: ContextVar[str | None] = ContextVar("current", default=None)

    @shop.background.around_enqueue
    def around(task_name: str) -> Generator[Any, WorkItem[Any], None]:
        assert current.get() is None
        token = current.set(task_name)
        try:
            item = yield {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            seen.append(item.id)
        except QueueFull:
            seen.append("refused")
        finally:
            current.reset(token)

    task = shop.task(lambda number: current_item.state.traceparent, describe="number {number}".format)
    items = shop.background.enqueue_many(task.call(number=number) for number in range(2))
    assert seen == [item.id for item in items]
    assert [item.description for item in items] == ["number 0", "number 1"]
    assert all(item.result(BOUND).startswith("00-0af7") for item in items)
    assert current.get() is None


@pytest.mark.parametrize("backend", ["immediate", "manual"])
def test_backends_of_tests(make_site: Callable[..., Site], backend: str) -> None:
    """With the backends for tests a batch is checked before its first item runs, and then runs in order."""
    site, seen = make_site(BACKGROUND_BACKEND=backend), list[Any]()
    task = site.background.task(name="shop.work", durable=True)(seen.append)
    with pytest.raises(SerializationError, match=r"calls\[1\] \(shop\.work\)"):
        site.background.enqueue_many([task.call(1), task.call({2})])
    assert seen == []
    with site.app.app_context():
        items = site.background.enqueue_many(map(task.call, range(3)))
        if backend == "manual":
            assert run_items() == items
    assert seen == [0, 1, 2]


@pytest.fixture
def narrow(make_site: Callable[..., Site], tmp_path: Path) -> Callable[..., Site]:
    """An app with one thread, on which an item holds the gate, and room for three more items."""

    def make(gate: threading.Event, overflow: str) -> Site:
        site = make_site(
            BACKGROUND_WORKERS=1,
            BACKGROUND_MAX_QUEUED=3,
            BACKGROUND_OVERFLOW=overflow,
            BACKGROUND_JOURNAL=tmp_path / "journal",
        )
        item = site.background.enqueue(gate.wait, BOUND)
        until(lambda: item.status is Status.RUNNING)
        return site

    return make


def test_no_room(narrow: Callable[..., Site], gate: threading.Event) -> None:
    """Without room for all, none is enqueued, the durable ones neither; with room for all, all are."""
    site, seen = narrow(gate, "raise"), list[int]()
    task = site.background.task(name="shop.work")(seen.append)
    durable = site.background.task(name="shop.durable", durable=True)(seen.append)
    why = r"none of 4 calls was enqueued: with those of shop\.work more"
    with receiving(signals.item_refused, site.app) as refused, pytest.raises(QueueFull, match=why):
        site.background.enqueue_many([*map(task.call, range(4)), durable.call(4)])
    assert len(refused) == 1
    assert site.background.items(task="shop.durable") == site.background.items(task="shop.work") == []
    items = site.background.enqueue_many([*map(task.call, range(3)), durable.call(3)])
    gate.set()
    for item in items:
        item.result(BOUND)
    assert sorted(seen) == list(range(4))


def test_the_journal_refuses(narrow: Callable[..., Site], gate: threading.Event) -> None:
    """Items in memory are taken back if the journal refuses the rest of the batch."""
    site, seen = narrow(gate, "raise"), list[Any]()
    task = site.background.task(name="shop.work")(seen.append)
    durable = site.background.task(name="shop.durable", durable=True)(seen.append)
    with pytest.raises(SerializationError, match=r"calls\[2\]"):
        site.background.enqueue_many([task.call(0), task.using(key="a").call(1), durable.call({2})])
    assert site.background.stats().queued == 0
    again = task.using(key="a").enqueue(3)
    gate.set()
    again.result(BOUND)
    assert seen == [3]


@pytest.mark.parametrize("overflow", ["block", "run"])
def test_wait_for_room(narrow: Callable[..., Site], gate: threading.Event, overflow: str) -> None:
    """Under "block" a batch waits for room for all; under "run" the caller runs what finds none."""
    site, seen = narrow(gate, overflow), list[int]()
    task = site.background.task(name="shop.work")(seen.append)
    first = site.background.enqueue_many(map(task.call, range(2)))
    items: list[WorkItem[None]] = []
    thread = threading.Thread(
        target=lambda: items.extend(site.background.enqueue_many(map(task.call, range(2, 4))))
    )
    thread.start()
    if overflow == "run":
        thread.join(BOUND)
        assert items[1].status is Status.QUEUED or items[0].status is Status.SUCCEEDED
    else:
        thread.join(0.1)
        assert thread.is_alive()
    gate.set()
    thread.join(BOUND)
    for item in first + items:
        item.result(BOUND)
    assert sorted(seen) == list(range(4))
    if overflow == "block":
        with pytest.raises(QueueFull):  # there will never be room for so many
            site.background.enqueue_many(map(task.call, range(5)))


# BACKGROUND_OVERFLOW = "journal"


def test_overflow(narrow: Callable[..., Site], gate: threading.Event) -> None:
    """What finds no room in memory goes to the journal, of tasks that are not durable, and runs later."""
    site, seen = narrow(gate, "journal"), list[Any]()

    def save(value: Any) -> Any:
        seen.append(value.read() if isinstance(value, FileStorage) else value)
        return value if isinstance(value, int) else None

    task = site.background.task(name="shop.work")(save)
    with receiving(signals.item_refused, site.app) as refused:
        items = [task.enqueue(number) for number in range(5)]
        items += site.background.enqueue_many(map(task.call, range(5, 9)))
        upload = task.enqueue(FileStorage(io.BytesIO(b"picture"), "a.jpg"))
        delayed = task.using(delay=0.1).enqueue(9)
    assert refused == []
    assert site.background.stats().queued == 3
    assert [item.status for item in items] == [Status.QUEUED] * 9
    found = site.background.get(items[4].id)
    assert found is items[4]
    gate.set()
    assert [item.result(BOUND) for item in items] == list(range(9))
    upload.result(BOUND)
    delayed.result(BOUND)
    assert seen[:3] == [0, 1, 2]
    assert sorted(map(str, seen)) == sorted(map(str, [*range(10), b"picture"]))


def test_overflow_after_the_response(narrow: Callable[..., Site], gate: threading.Event) -> None:
    """An item that waits for its response goes to the journal too, and starts after it or is dropped."""
    site, seen = narrow(gate, "journal"), list[str]()
    task = site.background.task(name="shop.work")(seen.append)
    site.background.enqueue_many([task.call("before")] * 3)

    @site.app.get("/<word>")
    def view(word: str) -> str:
        items.append(task.using(when="response").enqueue(word))
        if word == "fails":
            raise ValueError(word)
        return word

    items: list[WorkItem[None]] = []
    site.client.get("/sent", buffered=True)
    site.client.get("/fails", buffered=True)
    assert items[1].status is Status.CANCELLED
    gate.set()
    items[0].result(BOUND)
    assert seen == ["before"] * 3 + ["sent"]


def test_overflow_refused(narrow: Callable[..., Site], gate: threading.Event) -> None:
    """What is not data, what no other process could find, and what has a key gets QueueFull as before."""
    site = narrow(gate, "journal")
    task = site.background.task(name="shop.work")(lambda value: None)
    site.background.enqueue_many(map(task.call, range(3)))
    upload = FileStorage(io.BytesIO(b"picture"), "a.jpg")
    with receiving(signals.item_refused, site.app) as refused:
        for refuse in (
            lambda: task.enqueue({1}),
            lambda: task.using(key="a").enqueue(1),
            lambda: site.background.enqueue(lambda: None),
            lambda: task.enqueue([upload, {1}]),
            lambda: site.background.enqueue_many([task.call(1), task.call({1})]),
            lambda: site.background.enqueue_many([task.call(1), task.using(key="a").call(1)]),
        ):
            with pytest.raises(QueueFull):
                refuse()
    assert upload.read() == b"picture"
    assert len(refused) == 6
    assert site.background.stats().queued == 3
