"""The run of one item, step by step: claim, enter, call, leave, settle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_app_context, request, session

from flask_background import Background, CancelReason, Status, WorkItem, current_item
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.events import Events
from flask_background.core.run_host import RunHost
from flask_background.core.runner import Run, perform
from flask_background.core.status import Attempt, Outcome
from flask_background.core.token import CancellationSource
from flask_background.errors import ItemCancelledError, ItemInterruptedError, ItemTimeoutError

from ..helpers import BOUND, make_item


@dataclass(frozen=True)
class Frozen(Exception):
    """An error as a frozen dataclass, whose attributes cannot be set."""

    text: str


class Unspeakable(RuntimeError):
    """An error without a text."""

    def __str__(self) -> str:
        raise KeyError("no text")


class Host(RunHost):
    """Holds items for runs, and remembers what the runs ask for."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app, Events(app), Timers(), threading.Lock(), ())
        self.starts = True
        self.runs_again = True
        self.source = CancellationSource()
        self.timers_set: list[float] = []
        self.timers_cancelled: list[float] = []
        self.outcomes: list[Outcome] = []
        self.delays: list[float] = []
        self.errors: list[BaseException] = []

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """One source for all items."""
        return self.source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Not here."""
        return False

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        """Start the item, or refuse to."""
        return self.starts

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """A timer that never fires."""
        self.timers_set.append(seconds)
        return Timer(seconds, 0, lambda: None)

    def cancel_timer(self, timer: Timer) -> None:
        """Remember the call."""
        self.timers_cancelled.append(timer.when)

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        """Remember the delay."""
        self.delays.append(delay)
        return self.runs_again

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Remember the outcome."""
        assert not has_app_context()
        self.outcomes.append(outcome)

    def log_error(self, what: str, error: BaseException, about: WorkItem[Any] | str | None = None) -> None:
        """Remember the call."""
        self.errors.append(error)


@pytest.fixture
def host(app: Flask) -> Host:
    """A host of items of the app."""
    return Host(app)


def no_adoption(run: Run, awaitable: Awaitable[Any]) -> None:
    """Fail: no awaitable should be left."""
    raise AssertionError(awaitable)


def outcome_of(host: Host, func: Any, reason: CancelReason | None = None, **callee: Any) -> Outcome:
    """The outcome of a run of func whose token fired for this reason."""
    host.source = CancellationSource()
    item = make_item(func=func, host=host, **callee)
    item._set_source(host.source)
    if reason is not None:
        host.source.fire(reason)
    perform(item, no_adoption)
    return host.outcomes.pop()


def test_succeeds(host: Host) -> None:
    """The function's return value is the outcome, which the host gets after the teardown."""
    assert outcome_of(host, lambda: 42) == (Status.SUCCEEDED, 42, None)
    assert not has_app_context()
    assert not current_item


def test_not_started(host: Host) -> None:
    """An item that may not start is left alone."""
    host.starts = False
    ran: list[int] = []
    perform(make_item(func=lambda: ran.append(1), host=host), no_adoption)
    assert ran == host.outcomes == host.timers_set == []


def test_time_limit(host: Host) -> None:
    """A time limit is set as the run begins, and taken back as it ends, whatever its end."""
    outcome_of(host, lambda: 42, timeout=30)
    outcome_of(host, lambda: 1 / 0, timeout=40)
    outcome_of(host, lambda: 42)
    assert host.timers_set == host.timers_cancelled == [30, 40]


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        (CancelReason.REQUESTED, Status.CANCELLED, ItemCancelledError),
        (CancelReason.SHUTDOWN, Status.INTERRUPTED, ItemInterruptedError),
        (CancelReason.TIMEOUT, Status.FAILED, ItemTimeoutError),
    ],
)
def test_own_cancellation(host: Host, reason: CancelReason, status: Status, kind: type[Exception]) -> None:
    """An item that its own token ends gets the status and the error that belong to the reason."""

    def work() -> None:
        current_item.token.raise_if_cancelled()

    outcome = outcome_of(host, work, reason, timeout=3)
    assert outcome[0] is status
    assert type(outcome[2]) is kind
    assert "shop.send_mail" in str(outcome[2])


@pytest.mark.parametrize("reason", [None, *CancelReason])
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), concurrent.futures.CancelledError(), ItemCancelledError("another's")]
)
def test_foreign_cancellation(host: Host, error: BaseException, reason: CancelReason | None) -> None:
    """A cancellation that is not the item's own is a failure, even if the item's token has fired as well."""

    def work() -> None:
        raise error

    assert outcome_of(host, work, reason) == (Status.FAILED, None, error)


def test_wrapped_cancellation_is_a_failure(host: Host) -> None:
    """An error that a cancellation has caused is a failure."""

    def work() -> None:
        try:
            current_item.token.raise_if_cancelled()
        except ItemCancelledError as error:
            raise ValueError("cleaning up failed") from error

    status, _, error = outcome_of(host, work, CancelReason.REQUESTED)
    assert status is Status.FAILED
    assert isinstance(error, ValueError)


def test_note(host: Host) -> None:
    """An error's note says which item it comes from."""
    _, _, error = outcome_of(host, lambda: 1 / 0)
    assert error is not None
    (note,) = error.__notes__
    assert note.startswith("in work item ")
    assert note.endswith("(shop.send_mail)")


@pytest.mark.parametrize("error", [Frozen("no notes"), Unspeakable()])
def test_error_that_takes_no_note(host: Host, error: Exception) -> None:
    """An error that is frozen, or whose text raises, is the outcome as any other error."""

    def work() -> None:
        raise error

    assert outcome_of(host, work) == (Status.FAILED, None, error)


def test_run_again(host: Host) -> None:
    """A failed run that is followed by another is not the item's end; the retry policy sets the delay."""
    item = make_item(func=lambda: 1 / 0, host=host, max_attempts=3, backoff=0.5)
    perform(item, no_adoption)
    assert (host.delays, host.outcomes) == ([0.5], [])
    host.runs_again = False  # the process stops, say
    perform(item, no_adoption)
    assert [outcome[0] for outcome in host.outcomes] == [Status.FAILED]


def test_no_run_follows(host: Host) -> None:
    """No run follows a success, an error that is not retried, or a request to end the item."""
    policy = {"max_attempts": 3, "backoff": 0.5, "retry_on": (OSError,)}
    outcome_of(host, lambda: 42, **policy)
    outcome_of(host, lambda: 1 / 0, **policy)
    outcome_of(host, lambda: Path("/nowhere").read_text(), CancelReason.REQUESTED, **policy)
    assert host.delays == []


def test_others_decide(app: Flask) -> None:
    """A failed run ends as a failure if another process decides about retries."""

    class Child(Host):
        decides_retries = False

    host = Child(app)
    assert outcome_of(host, lambda: 1 / 0, max_attempts=3, backoff=0.5)[0] is Status.FAILED
    assert host.delays == []


@pytest.mark.parametrize("touch", [lambda: request.path, lambda: session.get("user"), lambda: request.form])
def test_touching_the_request(background: Background, app: Flask, touch: Any) -> None:
    """The error of an item that touches the request says how to pass values instead."""
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


def test_teardown_trouble(host: Host) -> None:
    """The host reports a teardown that fails after a failure; the first error stays."""

    @host.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        raise KeyError("teardown")

    status, _, error = outcome_of(host, lambda: 1 / 0)
    assert status is Status.FAILED
    assert isinstance(error, ZeroDivisionError)
    assert [type(trouble) for trouble in host.errors] == [KeyError]


def test_app_context_that_cannot_be_entered(host: Host) -> None:
    """An item whose app context cannot be pushed fails, and leaves nothing behind."""

    class Broken(Flask):
        def app_context(self) -> Any:
            raise KeyError("no context")

    host.app = Broken("broken")
    status, _, error = outcome_of(host, lambda: 42)
    assert status is Status.FAILED
    assert isinstance(error, KeyError)
    assert not has_app_context()


def test_left_context_is_popped(background: Background) -> None:
    """An item that pushes a context and does not pop it does not affect the next ones."""

    def forgetful() -> None:
        g.by = "forgetful"
        current_app.app_context().push()

    forgotten = background.enqueue(forgetful)
    assert forgotten.wait(BOUND)
    for _ in range(20):
        assert background.enqueue(lambda: g.get("by")).result(BOUND) is None
