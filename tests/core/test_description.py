"""The description of an item: what makes it, what it may look like, and what happens if that fails."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flask_background import Background, WorkItem
from flask_background.core.description import LONGEST
from flask_background.errors import ConfigurationError

from ..helpers import BOUND


def ended(item: WorkItem[Any]) -> WorkItem[Any]:
    """The item, once it has ended."""
    assert item.wait(BOUND)
    return item


def test_description(background: Background) -> None:
    """An item has the text that describe makes of its arguments, however they are given; using keeps it."""

    @background.task(describe=lambda order_id, copies=1: f"order {order_id}, {copies} times")
    def order(order_id: int, copies: int = 1) -> None: ...

    assert order.enqueue(7).description == "order 7, 1 times"
    assert order.using(timeout=9).enqueue(7, copies=2).description == "order 7, 2 times"
    assert order.enqueue(order_id=8).description == "order 8, 1 times"


def test_without(background: Background) -> None:
    """An item has no description if its task has no describe, or if that returns nothing."""
    plain = background.task(lambda: None)
    assert plain.enqueue().description is None
    for nothing in (None, "", " \n"):
        silent = background.task(name="silent", describe=lambda nothing=nothing: nothing)(lambda: None)
        assert silent.enqueue().description is None


def test_of_methods(background: Background) -> None:
    """The describe of a method gets the object first, as the method does."""

    class Shop:
        city = "Berlin"

        @background.task(describe=lambda self, what: f"{what} in {self.city}")
        def sell(self, what: str) -> None: ...

    assert Shop().sell.enqueue("shoes").description == "shoes in Berlin"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\r\nlines\tand\u2028more", "two lines and more"),
        ("\x1b[31mred\x00", "\ufffd[31mred\ufffd"),
        ("turned \u202e round", "turned \ufffd round"),
        ("half \ud800", "half \ufffd"),
        ("family 👩\u200d👧 ‌and \u00a0 more", "family 👩\u200d👧 ‌and more"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * 100_000, "x" * (LONGEST - 1) + "…"),
        (12, "12"),
    ],
)
def test_shape(background: Background, text: object, shown: str) -> None:
    """A description is one line of bounded length without characters that do anything, and can be encoded."""
    item = background.task(name="shape", describe=lambda: text)(lambda: None).enqueue()
    assert item.description == shown
    shown.encode()


def test_subclass_of_str(background: Background) -> None:
    """A description is a plain string, whatever describe returns."""

    class Loud(str):
        def split(self, *args: Any) -> Any:
            return [self]

    item = background.task(describe=lambda: Loud("loud"))(lambda: None).enqueue()
    assert type(item.description) is str


@pytest.mark.parametrize("error", [KeyError("secret"), SystemExit("secret"), RecursionError()])
def test_failure(background: Background, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """A describe that raises costs only the description; one line per task says so, without the text."""

    def describe(number: int) -> str:
        raise error

    @background.task(describe=describe, name="shop.order")
    def order(number: int) -> int:
        return number

    results: list[Any] = []
    # Not on the main thread, where SystemExit may come from a signal.
    thread = threading.Thread(target=lambda: results.extend(order.enqueue(n) for n in range(3)))
    thread.start()
    thread.join(BOUND)
    assert [item.result(BOUND) for item in results] == [0, 1, 2]
    assert {item.description for item in results} == {None}
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    message = record.getMessage()
    assert "shop.order" in message
    assert type(error).__name__ in message
    assert "test_description.py, line" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("describe", "why"),
    [
        ("order", "is a str"),
        (lambda: "", "takes ()"),
        (lambda other, copies=1: "", "takes (other, copies=1)"),
        (lambda order_id: "", "takes (order_id)"),
        (lambda order_id, copies: "", "takes (order_id, copies)"),
        (lambda order_id, copies=1, *, shop: "", "missing a required"),
    ],
)
def test_unfit(background: Background, describe: Any, why: str) -> None:
    """A describe that could not be called with all arguments of the function is refused at decoration."""
    with pytest.raises(ConfigurationError) as refused:

        @background.task(describe=describe)
        def order(order_id: int, copies: int = 1) -> None: ...

    assert why in str(refused.value)


def test_coroutine_or_generator(background: Background) -> None:
    """A describe is no coroutine function and no generator function."""

    async def coroutine() -> str:
        return ""

    def generator() -> Any:
        yield ""

    async def both() -> Any:
        yield ""

    for describe in (coroutine, generator, both, functools.partial(coroutine)):
        with pytest.raises(ConfigurationError, match="make it an ordinary function"):
            background.task(describe=describe)(lambda: None)


def test_any_signature(background: Background) -> None:
    """A describe may take more than the function, and a function without a signature takes any describe."""
    tasks: list[Callable[..., object]] = [
        lambda *args, **kwargs: str(args),
        lambda a, b=1, c=2, **rest: str(a),
    ]
    for describe in tasks:

        @background.task(name="any", describe=describe)
        def order(a: int, b: int = 1) -> None: ...

        assert order.enqueue(1).description is not None
    with pytest.raises(ConfigurationError, match="describe"):

        @background.task(name="many", describe=lambda a: "")
        def many(*args: int) -> None: ...

    background.task(name="max", describe=lambda *args: "")(max)


def test_key(background: Background) -> None:
    """An item that stands for another one keeps its own description."""

    @background.task(describe=lambda number: f"number {number}")
    def order(number: int) -> None: ...

    first = order.using(key="a", delay=60).enqueue(1)
    assert order.using(key="a").enqueue(2).description == "number 1"
    assert first.cancel()


def test_not_changed_by_using(background: Background) -> None:
    """A describe is given where the task is made."""
    task = background.task(lambda: None)
    with pytest.raises(ConfigurationError, match="give it where the task is made"):
        task.using(describe=lambda: "")  # type: ignore[call-arg]
