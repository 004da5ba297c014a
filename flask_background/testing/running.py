"""Running items in a test: those that wait, those whose time comes, or one call of a task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from flask import current_app, has_app_context

from flask_background.app_state import state_of
from flask_background.core.checks import LONGEST, shown
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.run_host import RunHost
from flask_background.core.token import CancelReason
from flask_background.enqueueing.submit import submit
from flask_background.task import Task
from flask_background.testing.apps import find_app
from flask_background.testing.failures import taking, watch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from flask import Flask

    from flask_background.core.backend import Backend
    from flask_background.core.callee import Callee
    from flask_background.local.manual import ManualBackend

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def run_items() -> list[WorkItem[Any]]:
    """Run all items that wait, and those that they enqueue, on this thread; return the items that ran.

    Neither a delay nor the time between two attempts is waited for. Periodic tasks are not enqueued. Raises
    AssertionError if an item fails, unless the test expects that.
    """
    __tracebackhide__ = True
    app = find_app()
    with watch(app) as failures:
        ran = _manual(app, "run_items").run_all()
        failures.check()
    return ran


def run_due(after: timedelta | float = 0.0) -> list[WorkItem[Any]]:
    """Let this time pass, and run each item when it is due on the way; return the items that ran.

    ``after``: a timedelta or seconds. The clock of the app's items is moved, not that of the process. Delays,
    the time between two attempts, and the schedules of periodic tasks follow it. Raises AssertionError if an
    item fails, unless the test expects that.
    """
    __tracebackhide__ = True
    app = find_app()
    manual = _manual(app, "run_due")

    def fire(task: Callee) -> None:
        with _context(app):
            submit(state_of(app), task, (), {})

    with watch(app) as failures:
        ran = manual.run_due(_seconds(after), fire)
        failures.check()
    return ran


def move_time(by: timedelta | float) -> None:
    """Let this time pass for the app's items, and run none: a running item's timeout may fire its token.

    Call this function in place of something slow that an item does. ``by``: a timedelta or seconds.
    """
    state_of(find_app()).manual.move(_seconds(by))


@overload
def perform(task: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
def perform(task: Callable[P, Future[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
def perform(task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
def perform(task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run one attempt of a task here and now, as an item is run, and return its result or raise its error.

    The arguments are checked and taken over as by ``enqueue``, and the function runs in a context of its own,
    with an app context and ``current_item``. The backend of the app does not matter; nothing is recorded.
    """
    if not isinstance(task, Task):
        raise TypeError(f"perform() takes a task, not {shown(task)}: call a function itself")
    app = find_app(task)
    state = state_of(app)
    manual = state.manual
    once = task.using(max_attempts=1, when="now", delay=None, run_at=None, key=None)

    def route(callee: Callee, find: Any) -> Backend[Any]:
        if callee is once._callee:
            return manual
        backend: Backend[Any] = find(callee) if before is None else before(callee, find)
        return backend

    before = state.change_route(route)
    try:
        with _context(app):
            item = once.enqueue(*args, **kwargs)
    finally:
        state.change_route(before)
    with taking(app, lambda failed: failed is item):
        manual.run_this(item)
    return item.result(0)


def fire_token(
    item: WorkItem[Any] | None = None,
    reason: CancelReason = CancelReason.SHUTDOWN,
    *,
    remaining: float | None = None,
) -> None:
    """Fire the token of an item that waits or runs; without an item, of the one that this code runs for.

    Call this function in place of something that an item does, to see what the item does then. ``remaining``:
    the seconds that the token's ``remaining`` says are left. Raises RuntimeError outside of an item.
    """
    if item is None:
        item = current_item_var.get(None)
        if item is None:
            raise RuntimeError(
                "fire_token() is called outside of an item: give it an item, or call it in place of"
                " something that an item does"
            )
    host = item._host
    source = host.source_of(item)
    if remaining is not None:
        source.limit(host.clock.monotonic() + remaining)
    if reason is not CancelReason.SHUTDOWN and isinstance(host, RunHost):
        host.ask_to_end(item, reason)  # which cancels a coroutine, too
    else:
        source.fire(reason)


def _manual(app: Flask, name: str) -> ManualBackend:
    state = state_of(app)
    if state.settings.backend != "manual":
        raise RuntimeError(
            f"{name}() runs the items of the backend 'manual', and app {app.name!r} has"
            f" {state.settings.backend!r}: set BACKGROUND_BACKEND = 'manual', or use the fixture"
            " background_items"
        )
    return state.manual


def _context(app: Flask) -> Any:
    """Return a context manager in which app is current."""
    if has_app_context() and current_app._get_current_object() is app:  # type: ignore[attr-defined]
        return nullcontext()
    return app.app_context()


def _seconds(time: timedelta | float) -> float:
    seconds = time.total_seconds() if isinstance(time, timedelta) else float(time)
    if not 0.0 <= seconds <= LONGEST:
        raise ValueError(
            f"time can pass by a number of seconds from 0 to a hundred years, not by {seconds:g}"
        )
    return seconds
