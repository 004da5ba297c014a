"""The run of one item: claim it, enter a fresh context, call the function, leave, settle the outcome."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextvars import Context
from time import time
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.local import LocalProxy

from .errors import ItemCancelled, ItemInterrupted, ItemTimeout
from .item import WorkItem, current_item_var
from .state import StateUrls
from .status import Attempt, Outcome, Status
from .token import CancelReason

if TYPE_CHECKING:
    import concurrent.futures

    from flask import Flask
    from flask.ctx import AppContext

    from .alarms import Alarm

_SUCCEEDED = Status.SUCCEEDED  # looked up once: this is on every item's way
_OUTSIDE_REQUEST = "Working outside of request context"


class Owner(Protocol):
    """What a run needs of the backend that holds its item."""

    @property
    def app(self) -> Flask: ...
    def start(self, item: WorkItem[Any], run: Attempt) -> bool: ...
    def set_alarm(self, item: WorkItem[Any], seconds: float) -> Alarm: ...
    def cancel_alarm(self, alarm: Alarm) -> None: ...
    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None: ...
    def trouble(self, what: str, error: BaseException) -> None: ...


Adopt = Callable[["Run", Awaitable[Any]], None]


def perform(owner: Owner, item: WorkItem[Any], adopt: Adopt) -> None:
    """Run item on this thread. What it leaves to be awaited goes to adopt, which has to end the run."""
    run = Run(owner, item)
    if not owner.start(item, run):
        return
    pending = run.context.run(run.enter_and_call)
    if pending is None:
        return
    if _is_future(pending):
        run.abortable(pending.cancel)
        pending.add_done_callback(run.take_future)
    else:
        adopt(run, pending)


class Run(Attempt):
    """One attempt at one item. Ends exactly once, by ``succeed`` or ``fail``, in its own context."""

    _aborted = False
    _alarm: Alarm | None = None
    _app_context: AppContext | None = None
    _cancel: Callable[[], object] | None = None

    def __init__(self, owner: Owner, item: WorkItem[Any]) -> None:
        self.started = time()
        self.owner = owner
        self.item = item
        self.context = Context()

    def enter_and_call(self) -> Any:
        """Call the function in an app context. Returns what is still to be awaited, or None at the end."""
        item, owner = self.item, self.owner
        task = item._task
        try:
            current_item_var.set(item)
            app_context = owner.app.app_context()
            if item.state is not None and app_context.url_adapter is None:
                app_context.url_adapter = StateUrls(owner.app, item.state)  # type: ignore[assignment]
            app_context.push()
            self._app_context = app_context
            if task.timeout is not None:
                self._alarm = owner.set_alarm(item, task.timeout)
            value = task.func(*item._args, **item._kwargs) if item._kwargs else task.func(*item._args)
        except BaseException as error:
            self.fail(error)
            return None
        if value is not None and value is not item and _is_pending(value):
            return value
        self._end((_SUCCEEDED, value, None))
        return None

    def abortable(self, cancel: Callable[[], object]) -> None:
        """What is awaited can be cancelled, by this call."""
        self._cancel = cancel
        self.abort = self.cancel_awaited
        source = self.item._source
        if source is not None and source.token.reason in (CancelReason.REQUESTED, CancelReason.TIMEOUT):
            self.cancel_awaited()  # it was asked for before there was something to cancel

    def cancel_awaited(self) -> None:
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
        self._end((_SUCCEEDED, value, None))

    def fail(self, error: BaseException) -> None:
        """The function raised error, which may be its own token's doing."""
        self._end(self._outcome_of(error))

    def _end(self, outcome: Outcome) -> None:
        item, owner = self.item, self.owner
        self.abort = None
        if self._alarm is not None:
            owner.cancel_alarm(self._alarm)
        if self._app_context is not None:
            outcome = self._leave(self._app_context, outcome)
        if outcome[2] is not None and outcome[0] is Status.FAILED:
            self._annotate(outcome[2])
        # The item keeps its attempt: without this each would be a cycle, with a context in it.
        del self.item, self.owner, self.context
        owner.finish(item, self, outcome)

    def _leave(self, app_context: AppContext, outcome: Outcome) -> Outcome:
        """Tear the app context down. What that raises fails an item that had succeeded."""
        self._app_context = None
        try:
            app_context.pop(outcome[2])
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
            and type(error).__name__ == "CancelledError"  # asyncio's, or that of concurrent.futures
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


def _is_pending(value: Any) -> bool:
    """Whether an item that returned value ends when that does."""
    if isinstance(value, LocalProxy):
        return False  # what it stands for may well be this item
    return inspect.isawaitable(value) or _is_future(value)


def _is_future(value: Any) -> bool:
    """Whether value is a Future of concurrent.futures, which is not imported for this question."""
    futures = sys.modules.get("concurrent.futures")
    return futures is not None and isinstance(value, futures.Future)


def let_frames_go(error: BaseException) -> None:
    """Forget the variables of the frames that error has passed: a handle keeps it, not an upload."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        this = errors.pop()
        if this is None or id(this) in seen:
            continue
        seen.add(id(this))
        traceback.clear_frames(this.__traceback__)
        errors += (this.__cause__, this.__context__)
        if isinstance(this, BaseExceptionGroup):
            errors += this.exceptions
