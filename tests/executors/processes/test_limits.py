"""Limits of items in child processes: they hold, whatever an item does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from flask_background import CancelReason, Status, current_item
from flask_background.errors import ItemCancelledError, ItemCrashedError, ItemTimeoutError, ResultLostError

from ...children import SharedEvent, SharedList, hold, ship
from ...helpers import BOUND, until
from ...integration.servers import alive
from .conftest import CPU, ONE, Shop


@pytest.mark.parametrize("name", ["spin", "hog"])
def test_timeout_is_hard(any_shop: Shop, name: str) -> None:
    """Whatever an item does, it is ended soon after its token has fired. Others go on, the next ones run."""
    gate = SharedEvent(any_shop.folder / "gate")
    other = any_shop.call(partial(hold, gate, os.getpid))
    item, pid = any_shop.begin(name, timeout=1.0)
    began = time.monotonic()
    error = item.exception(BOUND)
    assert time.monotonic() - began < 5.0
    assert isinstance(error, ItemTimeoutError)
    assert "killed 0.2 s after" in str(error.__cause__)
    assert item.status is Status.FAILED
    assert item.token.reason is CancelReason.TIMEOUT
    assert not alive(pid)
    gate.set()
    assert other.result(BOUND) not in {pid, os.getpid()}
    assert any_shop.pid() != pid


def test_cancel_is_hard(any_shop: Shop) -> None:
    """So is cancelling."""
    item, pid = any_shop.begin("spin")
    assert item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert item.status is Status.CANCELLED
    assert not alive(pid)


def test_who_heeds_the_token_is_not_killed(make_shop: Callable[..., Shop]) -> None:
    """An item that ends when it is asked to leaves its child alive."""
    shop = make_shop(cpu=CPU | {"workers": 1}, BACKGROUND_KILL_AFTER=60)
    pid = shop.pid()
    item = shop.call(partial(hold, SharedEvent(shop.folder / "never"), int), timeout=0.1)
    assert isinstance(item.exception(BOUND), ItemTimeoutError)
    assert shop.pid() == pid


def test_item_may_have_very_long(make_shop: Callable[..., Shop]) -> None:
    """An app that sets no limit gets none."""
    shop = make_shop(BACKGROUND_KILL_AFTER=1e10)
    begun = SharedList(shop.folder / "begun")
    item = shop.call(partial(hold, SharedEvent(shop.folder / "never"), partial(begun.append, 1)))
    until(lambda: len(begun))
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert item.status is Status.CANCELLED


def test_child_that_does_not_listen(make_shop: Callable[..., Shop]) -> None:
    """A timeout holds although the arguments do not even get through."""
    shop = make_shop(**ONE)
    pid = shop.pid()
    os.kill(pid, signal.SIGSTOP)
    item = shop.call(len, bytes(1 << 20), timeout=0.2)
    assert isinstance(item.exception(BOUND), ItemTimeoutError)
    assert shop.pid() != pid


def test_callback_that_takes_long(make_shop: Callable[..., Shop]) -> None:
    """A callback of a token that does not end does not hold up the next item."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)

    def work(registered: SharedEvent) -> int:
        current_item.token.on_cancel(partial(time.sleep, 60))
        registered.set()
        until(lambda: current_item.token.cancelled)
        return os.getpid()

    registered = SharedEvent(shop.folder / "registered")
    item = shop.call(work, registered)
    until(registered.is_set)
    item.cancel()
    pid = item.result(BOUND)
    assert shop.pid() == pid


def test_kill_reaches_what_the_item_has_started(shop: Shop) -> None:
    """A program that the item waits for ends with it."""
    item, program = shop.begin("start_another")
    item.cancel()
    assert item.wait(BOUND)
    until(lambda: not alive(program))


def test_memory_is_limited(make_shop: Callable[..., Shop]) -> None:
    """An item that wants more than max_memory gets a MemoryError, which ends that item alone."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 300})
    pid = shop.pid()
    assert isinstance(shop.tasks["eat"].enqueue(400).exception(BOUND), MemoryError)
    assert shop.tasks["eat"].enqueue(50).result(BOUND) == 50 << 20
    assert shop.pid() == pid


def test_all_memory_is_used(make_shop: Callable[..., Shop]) -> None:
    """An item that has left none has that for its failure, and its child lives."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 200})

    def work() -> None:
        eaten: list[Any] = []
        while True:
            eaten = [eaten, object()]

    pid = shop.pid()
    assert isinstance(shop.call(work).exception(BOUND), MemoryError)
    assert shop.pid() == pid


def leak(mebibytes: int) -> None:
    """Keep memory beyond the item."""
    _leaked.append(bytearray(mebibytes << 20))


_leaked: list[bytearray] = []


@pytest.mark.parametrize("mebibytes", [20, 50, 70])
def test_child_that_leaks_is_replaced(make_shop: Callable[..., Shop], mebibytes: int) -> None:
    """A child whose items have left it no memory fails one more item at most."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 300})
    children = set()
    failed = []
    for _ in range(12):
        item = shop.call(leak, mebibytes)
        failed.append(item.exception(BOUND) is not None)
        children.add(shop.pid())
    assert len(children) >= 2
    assert not any(one and other for one, other in pairwise(failed))


def test_child_is_replaced_after_max_items(make_shop: Callable[..., Shop]) -> None:
    """A child runs ``max_items`` items, whatever becomes of them."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_items": 3})
    first = shop.pid()
    assert isinstance(shop.call(int, "x").exception(BOUND), ValueError)
    assert shop.pid() == first
    assert shop.pid() != first
    until(lambda: not alive(first))


def test_no_memory_for_the_result(make_shop: Callable[..., Shop]) -> None:
    """A result that exists, and for whose copies there is no memory, is lost, and the item has succeeded."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 300})
    pid = shop.pid()
    for mebibytes in (100, 200):  # no memory for the message, or not even for its pickle
        item = shop.call(bytes, mebibytes << 20)
        assert isinstance(item.exception(BOUND), ResultLostError)
        assert item.status is Status.SUCCEEDED
    assert shop.pid() == pid


def test_no_memory_for_the_arguments(make_shop: Callable[..., Shop]) -> None:
    """A child that cannot even read its arguments ends, and fails the item."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 100})
    item = shop.tasks["work"].enqueue(ship(len), bytes(100 << 20))
    assert isinstance(item.exception(BOUND), ItemCrashedError)
    assert shop.pid()
