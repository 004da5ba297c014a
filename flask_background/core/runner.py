"""The run of one item: claim it, enter a fresh context, call the function, leave, settle the outcome."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.local import LocalProxy

from flask_background.concurrency import callbacks
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.odd_errors import best_effort, is_from_signal
from flask_background.core.request_state import StateUrls
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.core.token import CancelReason
from flask_background.errors import ItemCancelledError, ItemInterruptedError, ItemTimeoutError

if TYPE_CHECKING:
    import concurrent.futures

    from flask import Flask
    from flask.ctx import AppContext

    from flask_background.concurrency.timers import Timer

_SUCCEEDED = Status.SUCCEEDED  # looked up once: this is on every item's way
_OUTSIDE_REQUEST = "Working outside of request context"


class RunHost(Protocol):
    """What a run needs of the backend that holds its item."""

    @property
    def app(self) -> Flask: ...
    def start(self, item: WorkItem[Any], run: Attempt) -> bool: ...
    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer: ...
    def cancel_timer(self, alarm: Timer) -> None: ...
    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None: ...
    def log_error(self, what: str, error: BaseException) -> None: ...


Adopt = Callable[["PendingRun", Awaitable[Any]], None]
#: Has the function called in another process, and brings back what the run came to there.
CallElsewhere = Callable[[WorkItem[Any]], Outcome]


class Perform(Protocol):
    """What executors know of ``perform``."""

    def __call__(
        self, owner: Any, item: WorkItem[Any], adopt: Adopt, elsewhere: CallElsewhere | None = None, /
    ) -> None: ...


def perform(
    owner: RunHost, item: WorkItem[Any], adopt: Adopt, elsewhere: CallElsewhere | None = None, /
) -> None:
    """Run item on this thread. An awaitable that the run leaves goes to adopt, which has to end the run."""
    attempt = Attempt(time())
    if not owner.start(item, attempt):
        return
    context = Context()
    if elsewhere is not None:
        context.run(_call_elsewhere, owner, item, attempt, elsewhere)
        return
    left = context.run(_enter_and_call, owner, item, attempt, context)
    if left is None:
        return
    run, pending = left
    try:
        if _is_future(pending):
            # Its own callbacks are foreign, and would run on the thread that asks the item to end.
            run.abortable(partial(callbacks.threads.call, pending.cancel, callbacks.report))
            pending.add_done_callback(run.take_future)
        else:
            adopt(run, pending)
    except BaseException as error:  # a Future of the app's own kind, or no thread for the event loop
        if inspect.iscoroutine(pending):
            pending.close()
        context.run(run.fail, error)
        if is_from_signal(error):
            raise


def _enter_and_call(
    owner: RunHost, item: WorkItem[Any], attempt: Attempt, context: Context
) -> tuple[PendingRun, Any] | None:
    """Call the function in an app context, and end; or return the run that goes on, and what it awaits.

    Every item comes this way, so it is one straight line.
    """
    task = item._task
    entered: AppContext | None = None
    alarm: Timer | None = None
    try:
        current_item_var.set(item)
        app_context = owner.app.app_context()
        if app_context.url_adapter is None and item.state is not None:
            app_context.url_adapter = StateUrls(owner.app, item.state)  # type: ignore[assignment]
        app_context.push()
        entered = app_context
        if task.timeout is not None:
            alarm = owner.set_timer(item, task.timeout)
        value = task.func(*item._args, **item._kwargs) if item._kwargs else task.func(*item._args)
        if value is not None and value is not item and _is_pending(value):
            return PendingRun(owner, item, attempt, context, entered, alarm), value
    except BaseException as error:
        _end(owner, item, attempt, entered, alarm, _outcome_of(item, error))
    else:
        _end(owner, item, attempt, entered, alarm, (_SUCCEEDED, value, None))
    return None


def _call_elsewhere(owner: RunHost, item: WorkItem[Any], attempt: Attempt, elsewhere: CallElsewhere) -> None:
    """Wait here for a run that has its app context where it is. Its time is kept here."""
    alarm: Timer | None = None
    current_item_var.set(item)
    try:
        if item._task.timeout is not None:
            alarm = owner.set_timer(item, item._task.timeout)
        outcome = elsewhere(item)
    except BaseException as error:
        outcome = _outcome_of(item, error)
    _end(owner, item, attempt, None, alarm, outcome)


def _end(
    owner: RunHost,
    item: WorkItem[Any],
    attempt: Attempt,
    app_context: AppContext | None,
    alarm: Timer | None,
    outcome: Outcome,
) -> None:
    """Leave, and hand the outcome over. What a teardown raises fails an item that had succeeded."""
    if alarm is not None:
        owner.cancel_timer(alarm)
    if app_context is not None:
        try:
            app_context.pop(outcome[2])
        except BaseException as error:
            if outcome[0] is _SUCCEEDED:
                outcome = Status.FAILED, None, error
            else:
                owner.log_error(f"The teardown of item {item.id} failed", error)
    if outcome[2] is not None and outcome[0] is Status.FAILED:
        with best_effort():
            _annotate(item, outcome[2])
    owner.finish(item, attempt, outcome)


class PendingRun:
    """A run that goes on when its function has returned, until what that returned has been awaited.

    Ends exactly once, by ``succeed`` or ``fail``, in its own context.
    """

    def __init__(
        self,
        owner: RunHost,
        item: WorkItem[Any],
        attempt: Attempt,
        context: Context,
        app_context: AppContext,
        alarm: Timer | None,
    ) -> None:
        self.context = context
        self._entered = owner, item, attempt, app_context, alarm
        self._aborted = False
        self._cancel: Callable[[], object] | None = None

    def abortable(self, cancel: Callable[[], object]) -> None:
        """What is awaited can be cancelled, by this call."""
        _, item, attempt, *_ = self._entered
        self._cancel = cancel
        attempt.abort = self.cancel_awaited
        source = item._source
        if source is not None and source.token.reason in (CancelReason.REQUESTED, CancelReason.TIMEOUT):
            self.cancel_awaited()  # it was asked for before there was something to cancel

    def cancel_awaited(self) -> None:
        """Cancel what is awaited; how the run then ends is its token's to say."""
        self._aborted = True
        if self._cancel is not None:
            self._cancel()

    def take_future(self, future: concurrent.futures.Future[Any]) -> None:
        """End as the Future did that the function returned."""
        context = getattr(self, "context", None)
        if context is None:
            return  # it has ended
        try:
            value = future.result(0)
        except BaseException as error:
            context.run(self.fail, error)
        else:
            context.run(self.succeed, value)

    async def await_outcome(self, awaitable: Awaitable[Any]) -> None:
        """Await what the function returned, and end as that does. Nothing is raised, not even SystemExit."""
        try:
            value = await awaitable
        except BaseException as error:
            self.fail(error)
        else:
            self.succeed(value)

    def succeed(self, value: Any) -> None:
        """What was awaited gave value."""
        self._end((_SUCCEEDED, value, None))

    def fail(self, error: BaseException) -> None:
        """What was awaited raised error, which may be the item's own token's doing."""
        entered = vars(self).get("_entered")
        if entered is not None:
            self._end(_outcome_of(entered[1], error, self._aborted))

    def _end(self, outcome: Outcome) -> None:
        entered = vars(self).pop("_entered", None)
        if entered is None:
            return  # a Future of the app's own kind may tell its end twice, or fail after it has
        owner, item, attempt, app_context, alarm = entered
        attempt.abort = None
        del self.context  # whoever still knows this run, a Future say, keeps no item with it
        _end(owner, item, attempt, app_context, alarm, outcome)


def _outcome_of(item: WorkItem[Any], error: BaseException, aborted: bool = False) -> Outcome:
    """What it means that item raised error. Aborted: what it awaited was cancelled for its token's sake."""
    with best_effort():  # to look at it is already too much for some errors
        return _meaning_of(item, error, aborted)
    return Status.FAILED, None, error


def _meaning_of(item: WorkItem[Any], error: BaseException, aborted: bool) -> Outcome:
    source = item._source
    reason = source.token.reason if source is not None else None
    own = (
        error.token is not None and source is not None and error.token is source.token
        if isinstance(error, ItemCancelledError)
        else aborted and type(error).__name__ == "CancelledError"  # asyncio's, or that of concurrent.futures
    )
    if not own or reason is None:
        return Status.FAILED, None, error
    name = f"item {item.id} ({item.task_name})"
    if reason is CancelReason.REQUESTED:
        return Status.CANCELLED, None, ItemCancelledError(f"{name} was cancelled")
    if reason is CancelReason.SHUTDOWN:
        return Status.INTERRUPTED, None, ItemInterruptedError(f"{name} ended because the host stopped")
    timeout = ItemTimeoutError(f"{name} did not end within its {item._task.timeout} s")
    timeout.__cause__ = error
    return Status.FAILED, None, timeout


def _annotate(item: WorkItem[Any], error: BaseException) -> None:
    note = f"in work item {item.id} ({item.task_name})"
    if note in getattr(error, "__notes__", ()):
        return  # it has come from a child process, where that was done
    error.add_note(note)
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
