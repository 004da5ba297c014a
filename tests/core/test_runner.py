"""The run of one item, step by step: claim, enter, call, leave, settle."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable
from typing import Any

import pytest
from flask import Flask, current_app, g, has_app_context, request, session

from flask_background import Background, CancelReason, Status, WorkItem, current_item
from flask_background.concurrency.timers import Timer
from flask_background.core.runner import PendingRun, perform
from flask_background.core.status import Outcome
from flask_background.errors import ItemCancelledError, ItemInterruptedError, ItemTimeoutError

from ..helpers import BOUND, ItemHost, make_item


class Owner:
    """Holds items for runs, and remembers what the runs ask for."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.starts = True
        self.alarms: list[float] = []
        self.cancelled: list[Timer] = []
        self.outcomes: list[Outcome] = []
        self.troubles: list[BaseException] = []

    def start(self, item: WorkItem[Any], *_: Any) -> bool:
        """Start it, or not."""
        return self.starts

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """An alarm that never rings."""
        self.alarms.append(seconds)
        return Timer(seconds, 0, lambda: None)

    def cancel_timer(self, alarm: Timer) -> None:
        """Remember it."""
        self.cancelled.append(alarm)

    def finish(self, item: WorkItem[Any], *outcome: Any) -> None:
        """Remember how it ended."""
        assert not has_app_context()
        self.outcomes.append(outcome[-1])

    def log_error(self, what: str, error: BaseException) -> None:
        """Remember it."""
        self.troubles.append(error)


@pytest.fixture
def owner(app: Flask) -> Owner:
    """An owner of items of the app."""
    return Owner(app)


def no_adoption(run: PendingRun, awaitable: Awaitable[Any]) -> None:
    """Nothing is left to be awaited."""
    raise AssertionError(awaitable)


def outcome_of(owner: Owner, func: Any, reason: CancelReason | None = None, **callee: Any) -> Outcome:
    """How the run of func ends, after its token fired for that reason."""
    keeper = ItemHost()
    item = make_item(func=func, keeper=keeper, **callee)
    item._source = keeper.source
    if reason is not None:
        keeper.source.fire(reason)
    perform(owner, item, no_adoption)
    return owner.outcomes.pop()


def test_succeeds(owner: Owner) -> None:
    """What the function returns is the outcome, and is handed to the owner once all is torn down."""
    assert outcome_of(owner, lambda: 42) == (Status.SUCCEEDED, 42, None)
    assert not has_app_context()
    assert not current_item


def test_not_started(owner: Owner) -> None:
    """An item that may not start is left alone."""
    owner.starts = False
    ran: list[int] = []
    perform(owner, make_item(func=lambda: ran.append(1)), no_adoption)
    assert ran == owner.outcomes == owner.alarms == []


def test_time_limit(owner: Owner) -> None:
    """A time limit is set as the run begins, and taken back as it ends, whatever its end."""
    outcome_of(owner, lambda: 42, timeout=30)
    outcome_of(owner, lambda: 1 / 0, timeout=40)
    outcome_of(owner, lambda: 42)
    assert owner.alarms == [30, 40]
    assert [alarm.when for alarm in owner.cancelled] == [30, 40]


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        (CancelReason.REQUESTED, Status.CANCELLED, ItemCancelledError),
        (CancelReason.SHUTDOWN, Status.INTERRUPTED, ItemInterruptedError),
        (CancelReason.TIMEOUT, Status.FAILED, ItemTimeoutError),
    ],
)
def test_own_cancellation(owner: Owner, reason: CancelReason, status: Status, kind: type[Exception]) -> None:
    """An item that its own token ends gets the status and the error that belong to the reason."""

    def work() -> None:
        current_item.token.raise_if_cancelled()

    outcome = outcome_of(owner, work, reason, timeout=3)
    assert outcome[0] is status
    assert type(outcome[2]) is kind
    assert "shop.send_mail" in str(outcome[2])


@pytest.mark.parametrize("reason", [None, *CancelReason])
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), concurrent.futures.CancelledError(), ItemCancelledError("another's")]
)
def test_foreign_cancellation(owner: Owner, error: BaseException, reason: CancelReason | None) -> None:
    """A cancellation that is not the item's own is a failure, also when its token has fired as well."""

    def work() -> None:
        raise error

    assert outcome_of(owner, work, reason) == (Status.FAILED, None, error)


def test_wrapped_cancellation_is_a_failure(owner: Owner) -> None:
    """Only the cancellation itself counts: an error that it caused is a failure."""

    def work() -> None:
        try:
            current_item.token.raise_if_cancelled()
        except ItemCancelledError as error:
            raise ValueError("cleaning up failed") from error

    status, _, error = outcome_of(owner, work, CancelReason.REQUESTED)
    assert status is Status.FAILED
    assert isinstance(error, ValueError)


def test_note(owner: Owner) -> None:
    """An error's note says which item it comes from."""
    _, _, error = outcome_of(owner, lambda: 1 / 0)
    assert error is not None
    (note,) = error.__notes__
    assert note.startswith("in work item ")
    assert note.endswith("(shop.send_mail)")


@pytest.mark.parametrize("touch", [lambda: request.path, lambda: session.get("user"), lambda: request.form])
def test_touching_the_request(background: Background, app: Flask, touch: Any) -> None:
    """Who touches the request in an item is told how to pass values instead."""
    with app.test_request_context():
        item = background.enqueue(touch)
    error = item.exception(BOUND)
    assert isinstance(error, RuntimeError)
    assert "outside of request context" in str(error)
    assert any("current_item.state" in note and "arguments" in note for note in error.__notes__)


def test_other_runtime_errors_have_no_such_note(background: Background) -> None:
    """An error that has nothing to do with the request is not commented."""
    error = background.enqueue(lambda: next(iter(()))).exception(BOUND)
    assert error is not None
    assert len(error.__notes__) == 1


def test_teardown_trouble(owner: Owner) -> None:
    """A teardown that fails after a failure is the owner's to report; the first error stays."""

    @owner.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        raise KeyError("teardown")

    status, _, error = outcome_of(owner, lambda: 1 / 0)
    assert status is Status.FAILED
    assert isinstance(error, ZeroDivisionError)
    assert [type(trouble) for trouble in owner.troubles] == [KeyError]


def test_app_context_that_cannot_be_entered(owner: Owner) -> None:
    """Where the app context cannot be pushed, the item has failed, and nothing is left behind."""

    class Broken(Flask):
        def app_context(self) -> Any:
            raise KeyError("no context")

    owner.app = Broken("broken")
    status, _, error = outcome_of(owner, lambda: 42)
    assert status is Status.FAILED
    assert isinstance(error, KeyError)
    assert not has_app_context()


def test_left_context_is_popped(background: Background) -> None:
    """An item that pushes a context and forgets it hurts none of the next ones."""

    def forgetful() -> None:
        g.by = "forgetful"
        current_app.app_context().push()

    forgotten = background.enqueue(forgetful)
    assert forgotten.wait(BOUND)
    for _ in range(20):
        assert background.enqueue(lambda: g.get("by")).result(BOUND) is None
