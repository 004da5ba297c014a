"""The run of one item: the host claims it, a fresh context runs its function, and its outcome is settled.

``perform`` takes one ``Run`` through these steps. The host is a ``RunHost``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.local import LocalProxy

from flask_background.concurrency import callbacks
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.odd_errors import is_from_signal
from flask_background.core.outcome import annotate, outcome_of
from flask_background.core.request_state import StateUrls
from flask_background.core.run_host import RunHost
from flask_background.core.status import FAILED, SUCCEEDED, Attempt, Outcome, Status
from flask_background.core.token import CancelReason

if TYPE_CHECKING:
    import concurrent.futures

    from flask.ctx import AppContext

    from flask_background.concurrency.timers import Timer
    from flask_background.core.around import AroundRun

#: Awaits an awaitable that a run's function returned, and ends the run.
Adopt = Callable[["Run", Awaitable[Any]], None]
#: Calls the function in another process, and returns the outcome.
CallElsewhere = Callable[[WorkItem[Any]], Outcome]


class Perform(Protocol):
    """The signature of ``perform``, for executors."""

    def __call__(
        self, item: WorkItem[Any], adopt: Adopt, call_elsewhere: CallElsewhere | None = None, /
    ) -> None: ...


def perform(item: WorkItem[Any], adopt: Adopt, call_elsewhere: CallElsewhere | None = None, /) -> None:
    """Run item on this thread. If its function returns an awaitable, adopt awaits it and ends the run."""
    host: RunHost = item._host  # type: ignore[assignment]  # only a host that runs items calls this
    attempt = Attempt(host.clock.time())
    if not host.start(item, attempt):
        return
    run = Run(host, item, attempt)
    if call_elsewhere is not None:
        run.context.run(run.call_elsewhere, call_elsewhere)
        return
    awaitable = run.context.run(run.call)
    if awaitable is None:
        return
    context = run.context
    try:
        if _is_future(awaitable):
            # The awaitable's own callbacks are foreign code, and would run on the thread that asks the item
            # to end.
            run.abortable(partial(callbacks.threads.call, awaitable.cancel, callbacks.report))
            awaitable.add_done_callback(run.take_future)
        else:
            adopt(run, awaitable)
    # Raised by a Future class of the app, or no thread could start for the event loop
    except BaseException as error:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        context.run(run.fail, error)
        if is_from_signal(error):
            raise


class Run:
    """One run of one item.

    A run whose function returns an awaitable goes on until the awaitable is done; ``succeed`` or ``fail`` is
    then called in the run's context. Only the first such call counts.
    """

    # Attributes that most runs never set are not set for each run.
    _app_context: AppContext | None = None
    _around: AroundRun | None = None
    _timer: Timer | None = None
    _cancel: Callable[[], object] | None = None
    _aborted = False

    def __init__(self, host: RunHost, item: WorkItem[Any], attempt: Attempt) -> None:
        self.context = Context()
        self._host = host
        self._item = item
        self._attempt = attempt

    # The steps. Every item passes them.

    def call(self) -> Any:
        """Call the function; return an awaitable that it returned, or None if the run has ended."""
        item = self._item
        task = item._task
        try:
            current_item_var.set(item)
            app = self._host.app
            app_context = app.app_context()
            if app_context.url_adapter is None and item.state.method:
                app_context.url_adapter = StateUrls(app, item.state)  # type: ignore[assignment]
            app_context.push()
            self._app_context = app_context
            if task.timeout is not None:
                self._timer = self._host.set_timer(item, task.timeout)
            if self._host.around:
                self._enter_around()
            value = task.func(*item._args, **item._kwargs) if item._kwargs else task.func(*item._args)
            if value is not None and value is not item and _is_pending(value):
                return value
        except BaseException as error:
            self._end(outcome_of(item, error), error)
        else:
            self._end((SUCCEEDED, value, None))
        return None

    def _enter_around(self) -> None:
        from flask_background.core.around import AroundRun  # imported for apps that have such functions

        self._around = AroundRun()
        self._around.enter(self._host.around)

    def call_elsewhere(self, call: CallElsewhere) -> None:
        """Wait for a call in another process, which has the app context. This process has the timer."""
        item = self._item
        current_item_var.set(item)
        try:
            if item._task.timeout is not None:
                self._timer = self._host.set_timer(item, item._task.timeout)
            outcome = call(item)
        except BaseException as error:
            outcome = outcome_of(item, error)
        self._end(outcome)

    def _end(self, outcome: Outcome, raised: BaseException | None = None) -> None:
        """End the run. ``raised``: the error that the function raised, whatever outcome that means."""
        if self._around is not None:
            error = self._around.leave(raised)
            if error is not None and error is not raised:
                outcome = outcome_of(self._item, error, self._aborted)
        if self._timer is not None:
            self._host.cancel_timer(self._timer)
        if self._app_context is not None:
            try:
                self._app_context.pop(outcome[2])
            except BaseException as error:
                outcome = self._teardown_failed(error, outcome)
        if outcome[0] is FAILED:
            self._settle_failure(outcome)
        else:
            self._host.finish(self._item, self._attempt, outcome)

    def _teardown_failed(self, error: BaseException, outcome: Outcome) -> Outcome:
        """Return the outcome of a run after whose end a teardown function raised error."""
        if outcome[0] is SUCCEEDED:
            return FAILED, None, error
        self._host.log_error(f"The teardown of item {self._item.id} failed", error, self._item)
        return outcome

    def _settle_failure(self, outcome: Outcome) -> None:
        """Start another run, or let the item fail."""
        host, item, attempt, error = self._host, self._item, self._attempt, outcome[2]
        if error is not None:
            annotate(item, error)
        if host.decides_retries and error is not None:
            delay = delay_until_next(item, attempt, outcome)
            if delay is not None and host.run_again(item, attempt, error, delay):
                return
        host.finish(item, attempt, outcome)

    # A run that goes on after its function has returned.

    def abortable(self, cancel: Callable[[], object]) -> None:
        """Register cancel, a function that cancels what the run awaits."""
        self._cancel = cancel
        self._attempt.abort = self.cancel_awaited
        source = self._item._source
        if source is not None and source.token.reason in (CancelReason.REQUESTED, CancelReason.TIMEOUT):
            self.cancel_awaited()  # cancellation was requested before there was something to cancel

    def cancel_awaited(self) -> None:
        """Cancel what the run awaits; the item's token then decides the outcome."""
        self._aborted = True
        if self._cancel is not None:
            self._cancel()

    def take_future(self, future: concurrent.futures.Future[Any]) -> None:
        """End the run with the outcome of a Future that the function returned."""
        context = getattr(self, "context", None)
        if context is None:
            return  # a Future class of the app may call back twice
        try:
            value = future.result(0)
        except BaseException as error:
            context.run(self.fail, error)
        else:
            context.run(self.succeed, value)

    async def await_outcome(self, awaitable: Awaitable[Any]) -> None:
        """Await an awaitable that the function returned, and end the run.

        Raises nothing, not even SystemExit.
        """
        try:
            value = await awaitable
        except BaseException as error:
            self.fail(error)
        else:
            self.succeed(value)

    def succeed(self, value: Any) -> None:
        """End the run, because the awaitable returned value."""
        self._end_awaited((SUCCEEDED, value, None))

    def fail(self, error: BaseException) -> None:
        """End the run, because the awaitable raised error, perhaps after the item's own token fired."""
        item = getattr(self, "_item", None)
        if item is not None:
            self._end_awaited(outcome_of(item, error, self._aborted), error)

    def _end_awaited(self, outcome: Outcome, raised: BaseException | None = None) -> None:
        try:
            del self.context  # the thread that deletes the context ends the run
        except AttributeError:
            return
        self._attempt.abort = None
        try:
            self._end(outcome, raised)
        finally:
            # A Future may keep this run alive, and the run must not keep the item alive.
            del self._item, self._attempt
            self._app_context = self._around = None


def delay_until_next(item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> float | None:
    """Return the seconds until another run follows this one, or None. Only this function decides that."""
    status, _, error = outcome
    if status is not Status.FAILED or error is None or item._is_unwanted():
        return None
    return item._task.retry.delay_after(attempt.number, error)


# Types of most results, which nobody awaits.
_VALUES = frozenset((str, bytes, bool, int, float, tuple, list, dict))


def _is_pending(value: Any) -> bool:
    """Return whether the item ends only when value, which its function returned, is done."""
    if type(value) in _VALUES or isinstance(value, LocalProxy):
        return False  # the proxy may stand for this very item
    return inspect.isawaitable(value) or _is_future(value)


def _is_future(value: Any) -> bool:
    """Return whether value is a Future of concurrent.futures, without importing that module."""
    futures = sys.modules.get("concurrent.futures")
    return futures is not None and isinstance(value, futures.Future)
