"""Tasks: decorated functions that can be called as before, or enqueued."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from copy import copy
from functools import update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from flask_background.concurrency import native
from flask_background.concurrency.clock import CLOCK
from flask_background.core.callee import BareCall, Callee, refuse_generator
from flask_background.core.item import PlaceLender, WorkItem, current_item_var
from flask_background.core.options import TaskOptions, Using, check_names
from flask_background.core.status import Attempt
from flask_background.core.token import CancellationSource
from flask_background.enqueueing.submit import submit
from flask_background.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from flask_background.app_state import BackgroundState

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Method names of other task libraries, and what Flask-Background has in their place.
_ENQUEUE = "{0}.enqueue(...) takes the function's own arguments"
_USING = "{0}.using(delay=60).enqueue(...) separates options from the function's own arguments"
_SIGNATURE = (
    "enqueue the next step at the end of the first; background.enqueue_many([{0}.call(...), ...]) enqueues"
    " several at once"
)
_EACH = "background.enqueue_many({0}.call(value) for value in values) enqueues one item each"
_CURES = {
    **dict.fromkeys(("apply", "defer", "delay", "queue", "send", "submit"), _ENQUEUE),
    **dict.fromkeys(("apply_async", "configure", "schedule", "send_with_options"), _USING),
    **dict.fromkeys(("message", "s", "si", "signature"), _SIGNATURE),
    **dict.fromkeys(("chunks", "map", "starmap"), _EACH),
    "retry": "@background.task(max_attempts=5) runs an item again if its function raised",
}


class Finder(Protocol):
    """Finds the app that an item is enqueued for."""

    def _state(self) -> BackgroundState: ...


class Call(Generic[T_co]):
    """A call of a task that is not enqueued yet: made by ``Task.call``, for ``Background.enqueue_many``."""

    __slots__ = ("_bare", "_finder")

    def __init__(self, finder: Finder, bare: BareCall) -> None:
        self._finder = finder
        self._bare = bare

    @property
    def task_name(self) -> str:
        """The name of the task."""
        return self._bare.callee.name

    def __repr__(self) -> str:
        return f"<Call {self.task_name}>"  # without the arguments, which may be secret


class Task(Generic[P, R]):
    """A function that can be enqueued; calling the task calls the function as before.

    A task that is a method is enqueued through its object, as in ``shop.greet.enqueue("bo")``.
    """

    def __init__(self, finder: Finder, callee: Callee, binding: type | None = None) -> None:
        update_wrapper(self, callee.func)
        self._finder = finder
        self._callee = callee
        #: staticmethod or classmethod, if the decorated object was one.
        self._binding = binding

    @property
    def name(self) -> str:
        """The name of the task in logs, commands and the journal."""
        return self._callee.name

    @property
    def func(self) -> Callable[P, R]:
        """The decorated function."""
        return self._callee.func

    @property
    def options(self) -> TaskOptions:
        """The options of the task's items. ``using`` makes a task with other options."""
        return self._callee.options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, and return its result or raise its error.

        Outside of an item, ``current_item`` is bound to an item for this call, whose token never fires.
        """
        callee = self._callee
        if current_item_var.get(None) is not None:
            return cast(R, callee.func(*args, **kwargs))
        item: WorkItem[Any] = WorkItem(callee, (), {}, None, _Direct())
        item._begin(Attempt(CLOCK.time()))
        if callee.is_coroutine:
            return cast(R, _await_bound(item, callee.func, args, kwargs))
        token = current_item_var.set(item)
        try:
            return cast(R, callee.func(*args, **kwargs))
        finally:
            current_item_var.reset(token)

    @overload
    def enqueue(self: Task[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> WorkItem[T]: ...
    @overload
    def enqueue(self: Task[P, Future[T]], *args: P.args, **kwargs: P.kwargs) -> WorkItem[T]: ...
    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> WorkItem[R]: ...
    def enqueue(self, *args: Any, **kwargs: Any) -> WorkItem[Any]:
        """Enqueue a call of the function, and return its work item at once.

        Raises TypeError if the arguments do not fit the function, ArgumentError if an argument is alive only
        while the request is, and EnqueueError (503 in a view), such as QueueFull or Stopping, if the item is
        not accepted. Uploads are moved to the item: the view can no longer use them.
        """
        callee = self._callee
        callee.check_call(*args, **kwargs)
        return submit(self._finder._state(), callee, args, kwargs, callee.options.when)

    @overload
    def call(self: Task[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...
    @overload
    def call(self: Task[P, Future[T]], *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...
    @overload
    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    def call(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """Return a call of the function that ``Background.enqueue_many`` enqueues together with others.

        Raises TypeError if the arguments do not fit the function.
        """
        callee, all_args = self._callee, self._all_args(args)
        callee.check_call(*all_args, **kwargs)
        return Call(self._finder, BareCall(callee, all_args, kwargs))

    def using(self, **options: Unpack[Using]) -> Self:
        """Return the same task with other options; this task stays as it is. Raises ConfigurationError.

        ``delay``: seconds or a timedelta, and ``run_at``: an aware datetime, before which the item does not
        start. ``when="response"``: the item starts when the response has been sent, and is dropped if the
        view ends in an unhandled exception; outside of a request the item starts at once. ``when="commit"``:
        the item is enqueued when the transaction of the app's current SQLAlchemy session commits, and dropped
        if the session rolls back. ``key``: while an item of this task with the same key is queued or running,
        enqueue returns that item. ``timeout``, ``executor``, ``durable``, ``backend``, ``fallback``,
        ``max_attempts``, ``backoff``, ``retry_on``, ``max_crashes``: see ``Background.task``.
        """
        check_names(options, by_using=True)
        task = copy(self)
        task._callee = self._callee.using(**options)
        return task

    def _all_args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the function's arguments in a call with these: a method has its object before them."""
        return args

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Task[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Task[Any, Any]:
        """Bind the task to an object, as Python binds a method."""
        if self._binding is classmethod:
            return _MethodTask(self, type(instance) if owner is None else owner)
        func = self._callee.func
        is_method = hasattr(func, "__get__") and not inspect.ismethod(func)
        if instance is None or self._binding is staticmethod or not is_method:
            return self
        return _MethodTask(self, instance)

    def __getattr__(self, name: str) -> NoReturn:
        """Raise AttributeError; for the method names of other task libraries, name what to call instead."""
        what = f"{type(self).__name__.lstrip('_')!r} object has no attribute {name!r}"
        if name in _CURES and (callee := vars(self).get("_callee")) is not None:
            word = getattr(callee.func, "__name__", "task")
            raise AttributeError(f"{what}: {_CURES[name].format(word)}", name=name, obj=self)
        raise AttributeError(what, name=name, obj=self)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class _MethodTask(Task[P, R]):
    """A task that was looked up through an object; the object is the first argument of its items."""

    def __init__(self, task: Task[Any, R], instance: object) -> None:
        vars(self).update(vars(task))
        self._instance = instance

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return super().__call__(self._instance, *args, **kwargs)  # type: ignore[arg-type]

    def enqueue(self, *args: Any, **kwargs: Any) -> WorkItem[Any]:
        self._refuse_durable()
        callee, all_args = self._callee, self._all_args(args)
        callee.check_call(*all_args, **kwargs)
        return submit(self._finder._state(), callee, all_args, kwargs, callee.options.when)

    def call(self, *args: Any, **kwargs: Any) -> Call[Any]:
        self._refuse_durable()
        return super().call(*args, **kwargs)

    def _refuse_durable(self) -> None:
        if self._callee.durable:
            raise UnsupportedError(
                f"task {self.name} is a durable method, and its object ({type(self._instance).__name__})"
                " cannot be stored: make it a function or a static method, and pass it plain values, such as"
                " the object's id"
            )

    def _all_args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._instance, *args)

    def __get__(self, instance: object, owner: type | None = None) -> Task[Any, Any]:
        return self


class _Direct:
    """The host of an item in a direct call: no other code knows the item or cancels it."""

    lending: PlaceLender | None = None
    clock = CLOCK

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = native.new_lock()
        self._source = CancellationSource()

    def cancel(self, item: WorkItem[Any]) -> bool:
        return False

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        return self._source


def make_task(finder: Finder, func: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
    """Return a task of func. Raises ConfigurationError if func cannot be a task."""
    binding = type(func) if isinstance(func, (staticmethod, classmethod)) else None
    if binding is not None:
        func = func.__func__  # type: ignore[attr-defined]
    if isinstance(func, Task):
        raise ConfigurationError(_why_not_twice(func, finder, options))
    if isinstance(func, type):
        raise ConfigurationError(
            f"{func.__qualname__} is a class, and a class cannot be a task: decorate a function that calls"
            f" it, or enqueue a call of it by background.enqueue({func.__name__}, ...)"
        )
    if not callable(func):
        raise ConfigurationError(
            f"{func!r} is not a function: decorate one, @background.task above def, and give options their"
            " names, as in @background.task(name=...)"
        )
    refuse_generator(func)
    return Task(finder, Callee.of_task(func, options), binding)


def _why_not_twice(task: Task[..., Any], finder: Finder, options: dict[str, Any]) -> str:
    word = getattr(task.func, "__name__", "task")
    if task._finder is not finder:
        return f"{word} is a task of another Background: decorate its function, {word}.func"
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    cure = f"{word}.using({given}) is the same task with other options" if given else "decorate it once"
    return f"{word} is already a task: {cure}"


async def _await_bound(
    item: WorkItem[Any], func: Callable[..., Awaitable[Any]], args: Any, kwargs: Any
) -> Any:
    token = current_item_var.set(item)
    try:
        return await func(*args, **kwargs)
    finally:
        current_item_var.reset(token)
