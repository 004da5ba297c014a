"""Keys in memory: one item in flight for each."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from flask_background import WorkItem
from flask_background.local.keys import Keys

from ..helpers import BOUND, ItemHost


class Keyed(NamedTuple):
    """A task with a key."""

    key: str | None
    name: str = "shop.send_mail"


def make(key: str | None, name: str = "shop.send_mail") -> WorkItem[Any]:
    """An item that nobody runs."""
    return WorkItem(Keyed(key, name), (), {}, None, ItemHost())  # type: ignore[arg-type]


def test_first_has_it() -> None:
    """Whoever comes first has the key, and those who come later are given that one."""
    keys, first, second = Keys(), make("k"), make("k")
    assert keys.take(first) is first
    assert keys.take(second) is first
    assert keys.take(first) is first


def test_keys_are_exact() -> None:
    """A key is its task's, and as it is written; no pair of name and key is taken for another."""
    keys = Keys()
    items = [make("k"), make("K"), make("k "), make("k", "other"), make("b.c", "a"), make("c", "a.b")]
    for item in items:
        assert keys.take(item) is item


def test_given_back() -> None:
    """The key of an item that has ended is free again, and to give it back twice takes it from nobody."""
    keys, first, second = Keys(), make("k"), make("k")
    keys.take(first)
    keys.give_back(first)
    assert keys.take(second) is second
    keys.give_back(first)
    assert keys.take(make("k")) is second
    keys.give_back(second)
    assert keys.take(first) is first


def test_only_its_holder_gives_back() -> None:
    """Who was given another one instead frees nothing when it is let go; nor does one without a key."""
    keys, first, second = Keys(), make("k"), make("k")
    keys.give_back(first)  # nobody has any
    keys.take(first)
    keys.take(second)
    keys.give_back(second)
    keys.give_back(make(None))
    assert keys.take(make("k")) is first


def test_threads(hasty: None) -> None:
    """Of threads that take a key at once, one has it, and all others are given that one."""
    for _ in range(50):
        keys, barrier = Keys(), threading.Barrier(8)
        got: list[tuple[WorkItem[Any], WorkItem[Any]]] = []

        def take(keys: Keys = keys, barrier: threading.Barrier = barrier, got: Any = got) -> None:
            item = make("k")
            barrier.wait(BOUND)
            got.append((item, keys.take(item)))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert len({id(holder) for _, holder in got}) == 1
        assert sum(item is holder for item, holder in got) == 1
