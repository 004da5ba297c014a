"""Tasks: decorated functions that can be called as before, or enqueued."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace
from functools import update_wrapper
from keyword import iskeyword
from time import time
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from flask_background.concurrency import native
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.options import Options, TaskOptions, Using, name_of
from flask_background.core.status import Attempt
from flask_background.core.token import CancellationSource
from flask_background.enqueueing.submit import executor_for, is_coroutine_function, submit
from flask_background.errors import ConfigurationError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from flask_background.app_state import BackgroundState

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Finder(Protocol):
    """Finds the app that an item is enqueued for."""

    def _part(self) -> BackgroundState: ...


class Task(Generic[P, R]):
    """A function that can be enqueued. Called, it is the function that it was."""

    def __init__(
        self, finder: Finder, func: Callable[P, R], options: TaskOptions, is_coroutine: bool
    ) -> None:
        update_wrapper(self, func)
        self.func = func
        self._set_options(options)
        self.is_coroutine = is_coroutine
        self._finder = finder
        self.check_call = _call_checker(func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now. Outside of an item ``current_item`` is bound to one of its own.

        That one's token never fires. What the function raises is raised here.
        """
        if current_item_var.get(None) is not None:
            return self.func(*args, **kwargs)
        item: WorkItem[Any] = WorkItem(self, (), {}, None, _Direct())
        item._begin(Attempt(time()))
        if self.is_coroutine:
            return cast(R, _await_bound(item, cast(Any, self.func), args, kwargs))
        token = current_item_var.set(item)
        try:
            return self.func(*args, **kwargs)
        finally:
            current_item_var.reset(token)

    @overload
    def enqueue(self: Task[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> WorkItem[T]: ...
    @overload
    def enqueue(self: Task[P, Future[T]], *args: P.args, **kwargs: P.kwargs) -> WorkItem[T]: ...
    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> WorkItem[R]: ...
    def enqueue(self, *args: Any, **kwargs: Any) -> WorkItem[Any]:
        """Hand a call over and return its item at once.

        Raises TypeError if the arguments do not fit the function, ArgumentError if one of them is alive
        only while the request is, and QueueFull or Stopping (503 in a view) if the item is not accepted.
        Uploads are moved to the item: they cannot be used in the view any more.
        """
        self.check_call(*args, **kwargs)
        return submit(self._finder._part(), self, args, kwargs, self.options.when)

    def using(self, **options: Unpack[Using]) -> Task[P, R]:
        """The same task with other options; this one stays as it is.

        ``when="response"``: start when the response has been sent; drop the item if the view ends in an
        unhandled exception. Outside of a request it starts at once. ``when="commit"``: enqueue when the
        transaction of the app's current SQLAlchemy session has been committed; drop the item if it is rolled
        back. ``timeout``: seconds that a run may take,
        or None. ``executor``: the name of another executor. ``durable``: in the journal. ``backend``:
        where its items go, and ``fallback``: "local" if they may run here instead. ``delay``: seconds,
        or a timedelta, ``run_at``: an aware datetime; before that it does not start. ``key``: while an item
        of this task with the same key is queued or running, enqueue returns that one. ``max_attempts``,
        ``backoff``, ``retry_on``, ``max_crashes``: see ``Background.task``.
        """
        task = copy(self)
        task._set_options(replace(self.options, **options))
        return task

    def _set_options(self, options: TaskOptions) -> None:
        self.options = options
        self.name = options.name
        self.executor = options.executor
        self.timeout = options.timeout
        self.durable = options.durable
        self.backend = options.backend
        self.portable = True  # could be made durable
        self.key = options.key
        self.retry = options.retry
        self.due = options.due if options.is_delayed else None

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class _Direct:
    """Keeps the item of a direct call, which nobody else knows and nobody cancels."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = native.new_lock()
        self._source = CancellationSource()

    def cancel(self, item: WorkItem[Any]) -> bool:
        return False

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        return self._source


def make_task(
    finder: Finder,
    func: Callable[P, R],
    **options: Unpack[Options],
) -> Task[P, R]:
    """A task of func; its name and executor are worked out where they are not given."""
    if not callable(func):
        raise ConfigurationError(f"{func!r} is not a function: decorate one, @background.task above def")
    is_coroutine = is_coroutine_function(func)
    options.setdefault("name", name_of(func))
    options.setdefault("executor", executor_for(is_coroutine))
    return Task(finder, func, TaskOptions(**options), is_coroutine)


def _call_checker(func: Callable[..., Any]) -> Callable[..., None]:
    """A function with func's signature that does nothing: what does not fit func is a TypeError in the view.

    Made from source, as dataclasses and namedtuple do: fifty times as fast as ``Signature.bind``.
    """
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins have none
        return lambda *args, **kwargs: None
    parameters = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else None,
        )
        for parameter in signature.parameters.values()
    ]
    bare = signature.replace(parameters=parameters, return_annotation=signature.empty)
    name = getattr(func, "__name__", "task")
    if not name.isidentifier() or iskeyword(name):
        name = "task"
    namespace: dict[str, Any] = {}
    exec(f"def {name}{bare}: pass", namespace)
    checker: Callable[..., None] = namespace[name]
    return checker


async def _await_bound(
    item: WorkItem[Any], func: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
) -> Any:
    token = current_item_var.set(item)
    try:
        return await func(*args, **kwargs)
    finally:
        current_item_var.reset(token)
