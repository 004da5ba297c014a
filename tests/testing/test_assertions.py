"""Assertions on recorded items."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from flask_background import Background, Task
from flask_background.testing import RecordedItems, assert_enqueued, refute_enqueued


@pytest.fixture
def mail(items: RecordedItems, background: Background) -> Task[..., Any]:
    """A task, of which two items are enqueued."""

    @background.task(name="mail")
    def mail(to: str, subject: str = "Hello") -> None:
        """Do nothing."""

    mail.enqueue("bo")
    mail.using(delay=60).enqueue(to="al", subject="Bye")
    return mail


@pytest.mark.parametrize(
    ("args", "kwargs", "count"),
    [
        (("bo",), None, 1),
        (None, {"to": "bo"}, 1),
        (("bo", "Hello"), None, 1),
        (("al",), {"subject": "Bye"}, 1),
        ((ANY, "Bye"), None, 1),
        ((ANY, ANY), None, 2),
        (None, None, 2),
    ],
)
def test_the_same_call(mail: Task[..., Any], args: Any, kwargs: Any, count: int) -> None:
    """A parameter is the same by place and by name; ANY is any value; without arguments all calls count."""
    recorded = assert_enqueued(mail, args=args, kwargs=kwargs, count=count)
    assert recorded.task_name == "mail"
    with pytest.raises(AssertionError, match="no item of mail"):
        refute_enqueued(mail, args=args, kwargs=kwargs)


def test_misspelt_argument(items: RecordedItems, background: Background) -> None:
    """Arguments that the task cannot take are an error, also where no item of it was enqueued."""

    @background.task(name="mail")
    def mail(to: str) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="mail cannot be called with these arguments"):
        refute_enqueued(mail, kwargs={"too": "bo"})


def test_another_call(mail: Task[..., Any]) -> None:
    """Another argument is another call, and the failure lists what there was."""
    refute_enqueued(mail, args=("al",))
    with pytest.raises(AssertionError) as failure:
        assert_enqueued(mail, args=("cy",), delay=5)
    assert str(failure.value) == (
        "an item of mail('cy') delay=5 should have been enqueued, and 0 were. Enqueued was:\n"
        "  1. mail('bo')\n  2. mail(to='al', subject='Bye') delay=60"
    )
    with pytest.raises(AssertionError, match="3 items of mail should have been enqueued, and 2 were"):
        assert_enqueued(mail, count=3)
    with pytest.raises(TypeError, match="cannot be called with these arguments"):
        assert_enqueued(mail, kwargs={"address": "bo"})


@pytest.mark.parametrize("delay", [60, 60.0, timedelta(minutes=1)])
def test_delay(mail: Task[..., Any], delay: Any) -> None:
    """A delay is compared in seconds."""
    assert assert_enqueued(mail, delay=delay).kwargs["to"] == "al"
    refute_enqueued(mail, delay=61)


def test_names_and_callables(items: RecordedItems, background: Background) -> None:
    """A task can be named, and the function of background.enqueue given."""
    background.enqueue(divmod, 7, 2)
    assert_enqueued(divmod, args=(7, 2))
    assert_enqueued("builtins.divmod", count=1)
    refute_enqueued("divmod")
    with pytest.raises(AssertionError, match=r"builtins\.divmod\(7, 2\)"):
        assert_enqueued(max)


def test_methods(items: RecordedItems, background: Background) -> None:
    """The object of a method is among its arguments, and is not repeated in the assertion."""

    class Shop:
        @background.task
        def greet(self, name: str) -> None:
            """Do nothing."""

    shop = Shop()
    shop.greet.enqueue("bo")
    assert_enqueued(shop.greet, args=("bo",))
    refute_enqueued(Shop().greet, args=("bo",))
    assert_enqueued(Shop.greet, count=1)
