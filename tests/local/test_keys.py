"""Keys in memory: one item in flight for each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from flask_background import Status, WorkItem
from flask_background.errors import EnqueueError, QueueFull, Stopping
from flask_background.local.keys import Keys

from ..helpers import BOUND, ItemHost, Site, fill


class Keyed(NamedTuple):
    """A task with a key."""

    key: str | None
    name: str = "shop.send_mail"


def make(key: str | None, name: str = "shop.send_mail") -> WorkItem[Any]:
    """An item that no host runs."""
    return WorkItem(Keyed(key, name), (), {}, None, ItemHost())  # type: ignore[arg-type]


def yes() -> bool:
    """Admit an item."""
    return True


def test_first_has_it() -> None:
    """The first item has the key, and later calls return that item."""
    keys, first, second = Keys(), make("k"), make("k")
    assert keys.enter(first, yes) is first
    assert keys.enter(second, yes) is first
    assert keys.enter(first, yes) is first


def test_keys_are_exact() -> None:
    """A key belongs to its task; no two pairs of task name and key are taken for the same."""
    keys = Keys()
    items = [make("k"), make("K"), make("k "), make("k", "other"), make("b.c", "a"), make("c", "a.b")]
    for item in items:
        assert keys.enter(item, yes) is item


def test_given_back() -> None:
    """The key of an ended item is free again; giving it back twice takes it from no other item."""
    keys, first, second = Keys(), make("k"), make("k")
    keys.enter(first, yes)
    keys.give_back(first)
    assert keys.enter(second, yes) is second
    keys.give_back(first)
    assert keys.enter(make("k"), yes) is second
    keys.give_back(second)
    assert keys.enter(first, yes) is first


def test_only_its_holder_gives_back() -> None:
    """An item that another one stood in for frees no key, nor does one without a key."""
    keys, first, second = Keys(), make("k"), make("k")
    keys.give_back(first)  # nobody has any
    keys.enter(first, yes)
    keys.enter(second, yes)
    keys.give_back(second)
    keys.give_back(make(None))
    assert keys.enter(make("k"), yes) is first


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_refused_item_has_no_key(error: type[BaseException] | None) -> None:
    """An item that is not admitted, or whose admission raises, leaves its key to the next one."""
    keys, refused, accepted = Keys(), make("k"), make("k")

    def no() -> bool:
        if error is not None:
            raise error
        return False

    if error is None:
        assert keys.enter(refused, no) is None
    else:
        with pytest.raises(error):
            keys.enter(refused, no)
    assert keys.enter(accepted, yes) is accepted


def test_holder_needs_no_room() -> None:
    """If another item has the key, admission is not asked."""
    keys, first = Keys(), make("k")
    keys.enter(first, yes)
    assert keys.enter(make("k"), lambda: pytest.fail("it was asked")) is first


def test_threads(hasty: None) -> None:
    """Of threads that take a key at once, one gets it, and all others get that one's item."""
    for _ in range(50):
        keys, barrier = Keys(), threading.Barrier(8)
        got: list[tuple[WorkItem[Any], WorkItem[Any]]] = []

        def take(keys: Keys = keys, barrier: threading.Barrier = barrier, got: Any = got) -> None:
            item = make("k")
            barrier.wait(BOUND)
            got.append((item, keys.enter(item, yes)))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert len({id(holder) for _, holder in got}) == 1
        assert sum(item is holder for item, holder in got) == 1


@pytest.mark.parametrize("backend", ["local", "immediate"])
def test_handle_of_an_accepted_item_only(
    make_site: Callable[..., Site], gate: threading.Event, backend: str
) -> None:
    """While an item with a key waits for room, others with the key wait, and no caller gets its handle."""
    site = make_site(
        BACKGROUND_WORKERS=1,
        BACKGROUND_MAX_QUEUED=1,
        BACKGROUND_OVERFLOW="block",
    )
    fill(site, gate, 2)
    task = site.background.task(backend=backend)(lambda: None)
    got: list[WorkItem[Any] | EnqueueError] = []

    def enqueue() -> None:
        try:
            got.append(task.using(key="k").enqueue())
        except EnqueueError as error:
            got.append(error)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    if backend == "local":
        threads[0].join(0.1)
        assert not got
    site.background.stop(0)
    for thread in threads:
        thread.join(BOUND)
    for each in got:
        assert isinstance(each, Stopping) or each.wait(BOUND)
    assert len(got) == 4
    assert backend == "immediate" or all(isinstance(each, Stopping) for each in got)


def test_waiting_items_share_the_key(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """Once there is room, one of the items that waited with a key gets in, and all callers get that one."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="block")
    fill(site, gate, 2)
    release = threading.Event()
    task = site.background.task(lambda: release.wait(BOUND))
    got: list[WorkItem[Any]] = []
    threads = [threading.Thread(target=lambda: got.append(task.using(key="k").enqueue())) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(BOUND)
    release.set()
    assert len(got) == 4
    assert len({id(item) for item in got}) == 1
    assert got[0].result(BOUND)


@pytest.mark.parametrize("overflow", ["raise", "run"])
@pytest.mark.usefixtures("hasty")
def test_full_queue_and_one_key(make_site: Callable[..., Site], gate: threading.Event, overflow: str) -> None:
    """Of many calls with one key while the queue is full, each that returns a handle sees its item end."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW=overflow)
    fill(site, gate, 2)
    task = site.background.task(lambda: None)
    got: set[WorkItem[Any]] = set()
    refused: list[QueueFull] = []

    def hammer() -> None:
        for _ in range(100):
            try:
                got.add(task.using(key="k").enqueue())
            except QueueFull as error:
                refused.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert all(item.wait(BOUND) and item.status is Status.SUCCEEDED for item in got)
    assert len(refused) == (800 if overflow == "raise" else 0)
    assert task.using(key="k").enqueue().wait(BOUND)  # the key is free
