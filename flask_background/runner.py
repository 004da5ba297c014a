"""The run of one item: claim it, enter a fresh context, call the function, leave, settle the outcome."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ItemCancelled, ItemInterrupted, ItemTimeout
from .item import Status, WorkItem, current_item_var
from .state import StateUrls
from .token import CancelReason

if TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext

    from .alarms import Alarm

Outcome = tuple[Status, Any, BaseException | None]

_OUTSIDE_REQUEST = "Working outside of request context"


class Owner(Protocol):
    """What a run needs of the backend that holds its item."""

    @property
    def app(self) -> Flask: ...
    def start(self, item: WorkItem[Any]) -> bool: ...
    def set_alarm(self, item: WorkItem[Any], seconds: float) -> Alarm: ...
    def cancel_alarm(self, alarm: Alarm) -> None: ...
    def finish(self, item: WorkItem[Any], outcome: Outcome) -> None: ...
    def trouble(self, what: str, error: BaseException) -> None: ...


Adopt = Callable[["Run", Awaitable[Any]], None]


def perform(owner: Owner, item: WorkItem[Any], adopt: Adopt) -> None:
    """Run item on this thread. What it leaves to be awaited goes to adopt, which has to end the run."""
    run = Run(owner, item)
    if not run.claim():
        return
    pending = run.context.run(run.enter_and_call)
    if pending is None:
        return
    if isinstance(pending, concurrent.futures.Future):
        run.abortable(pending.cancel)
        pending.add_done_callback(run.take_future)
    else:
        adopt(run, pending)


class Run:
    """One attempt at one item. Ends exactly once, by ``succeed`` or ``fail``, in its own context."""

    __slots__ = ("_aborted", "_alarm", "_app_context", "_cancel", "context", "item", "owner")

    def __init__(self, owner: Owner, item: WorkItem[Any]) -> None:
        self.owner = owner
        self.item = item
        self.context = Context()
        self._aborted = False
        self._cancel: Callable[[], object] | None = None
        self._alarm: Alarm | None = None
        self._app_context: AppContext | None = None

    def claim(self) -> bool:
        """Take the item out of the queue; False if it was cancelled or may not start any more."""
        if not self.owner.start(self.item):
            return False
        timeout = self.item._task.timeout
        if timeout is not None:
            self._alarm = self.owner.set_alarm(self.item, timeout)
        return True

    def enter_and_call(self) -> Any:
        """Call the function in its app context. Returns what is still to be awaited, or None at the end."""
        item = self.item
        try:
            self._enter()
            value = item._task.func(*item._args, **(item._kwargs or {}))
        except BaseException as error:
            self.fail(error)
            return None
        if inspect.isawaitable(value) or isinstance(value, concurrent.futures.Future):
            return value
        self.succeed(value)
        return None

    def _enter(self) -> None:
        current_item_var.set(self.item)
        app = self.owner.app
        app_context = app.app_context()
        if app_context.url_adapter is None and self.item.state is not None:
            app_context.url_adapter = StateUrls(app, self.item.state)  # type: ignore[assignment]
        app_context.push()
        self._app_context = app_context

    def abortable(self, cancel: Callable[[], object]) -> None:
        """What is awaited can be cancelled, by this call."""
        self._cancel = cancel
        self.item._abort = self.abort
        source = self.item._source
        if source is not None and source.token.reason in (CancelReason.REQUESTED, CancelReason.TIMEOUT):
            self.abort()  # it was asked for before there was something to cancel

    def abort(self) -> None:
        """Cancel what is awaited; how the run then ends is its token's to say."""
        self._aborted = True
        if self._cancel is not None:
            self._cancel()

    def take_future(self, future: concurrent.futures.Future[Any]) -> None:
        """End as the Future did that the function returned."""
        try:
            value = future.result(0)
        except BaseException as error:
            self.context.run(self.fail, error)
        else:
            self.context.run(self.succeed, value)

    async def await_outcome(self, awaitable: Awaitable[Any]) -> None:
        """Await what the function returned, and end as that does. Nothing is raised, not even SystemExit."""
        try:
            value = await awaitable
        except BaseException as error:
            self.fail(error)
        else:
            self.succeed(value)

    def succeed(self, value: Any) -> None:
        """The function returned value."""
        self._end((Status.SUCCEEDED, value, None))

    def fail(self, error: BaseException) -> None:
        """The function raised error, which may be its own token's doing."""
        self._end(self._outcome_of(error))

    def _end(self, outcome: Outcome) -> None:
        if self._alarm is not None:
            self.owner.cancel_alarm(self._alarm)
        self.item._abort = None
        outcome = self._leave(outcome)
        if outcome[0] is Status.FAILED and outcome[2] is not None:
            self._annotate(outcome[2])
        self.owner.finish(self.item, outcome)

    def _leave(self, outcome: Outcome) -> Outcome:
        """Tear the app context down. What that raises fails an item that had succeeded."""
        if self._app_context is None:
            return outcome
        try:
            self._app_context.pop(outcome[2])
        except BaseException as error:
            if outcome[0] is Status.SUCCEEDED:
                return Status.FAILED, None, error
            self.owner.trouble(f"The teardown of item {self.item.id} failed", error)
        return outcome

    def _outcome_of(self, error: BaseException) -> Outcome:
        source = self.item._source
        reason = source.token.reason if source is not None else None
        own = (
            error.token is not None and source is not None and error.token is source.token
            if isinstance(error, ItemCancelled)
            else self._aborted
            and isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError))
        )
        if not own or reason is None:
            return Status.FAILED, None, error
        name = f"item {self.item.id} ({self.item.task_name})"
        if reason is CancelReason.REQUESTED:
            return Status.CANCELLED, None, ItemCancelled(f"{name} was cancelled")
        if reason is CancelReason.SHUTDOWN:
            return Status.INTERRUPTED, None, ItemInterrupted(f"{name} ended because the host stopped")
        timeout = ItemTimeout(f"{name} did not end within its {self.item._task.timeout} s")
        timeout.__cause__ = error
        return Status.FAILED, None, timeout

    def _annotate(self, error: BaseException) -> None:
        error.add_note(f"in work item {self.item.id} ({self.item.task_name})")
        if isinstance(error, RuntimeError) and _OUTSIDE_REQUEST in str(error):
            error.add_note(
                "An item has no request: pass the values that it needs as arguments, or read"
                " current_item.state; a @background.state_processor can add to that."
            )
