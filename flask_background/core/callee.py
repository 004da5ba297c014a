"""A function and the options that its items are run with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from keyword import iskeyword
from typing import Any, NamedTuple, Unpack

from flask_background.core.options import TaskOptions, Using, name_of
from flask_background.errors import ConfigurationError


class Callee:
    """A function and its options. ``Task`` is its public face; many items share one callee.

    Options that every item needs are attributes. A callee is never changed: ``using`` makes another one.
    """

    __slots__ = (
        "backend",
        "check_call",
        "describe",
        "due",
        "durable",
        "executor",
        "func",
        "is_coroutine",
        "key",
        "name",
        "options",
        "portable",
        "retry",
        "timeout",
    )

    def __init__(
        self,
        func: Callable[..., Any],
        options: TaskOptions,
        is_coroutine: bool,
        check_call: Callable[..., object],
        portable: bool,
    ) -> None:
        self.func = func
        self.options = options
        self.is_coroutine = is_coroutine
        #: Raises TypeError for arguments that do not fit the function.
        self.check_call = check_call
        #: Whether other processes can find the function by its name.
        self.portable = portable
        self.name = options.name
        self.executor = options.executor
        self.timeout = options.timeout
        self.durable: bool = options.durable
        self.backend = options.backend
        self.key = options.key
        self.retry = options.retry
        self.describe = options.describe
        self.due = options.due if options.is_delayed else None

    @classmethod
    def of_task(cls, func: Callable[..., Any], options: dict[str, Any]) -> Callee:
        """Return the callee of a decorated function, which also determines a missing name or executor."""
        is_coroutine = is_coroutine_function(func)
        made = TaskOptions(**{"name": name_of(func), "executor": _executor_for(is_coroutine), **options})
        if made.describe is not None:
            from flask_background.core.description import check_describe  # imported for tasks that have one

            check_describe(made.describe, func, made.name)
        return cls(func, made, is_coroutine, call_checker(func), portable=True)

    @classmethod
    def of_callable(cls, func: Callable[..., Any]) -> Callee:
        """Return the callee of a function that is enqueued without being a task."""
        is_coroutine = is_coroutine_function(func)
        options = _bare_options(name_of(func), _executor_for(is_coroutine))
        return cls(func, options, is_coroutine, _accept_any, portable=False)

    @classmethod
    def unknown(cls, name: str, executor: str) -> Callee:
        """Return a stand-in for a task that this process does not have, though it has an item of the task."""
        return cls(_cannot_run, TaskOptions(name, executor, durable=True), False, _accept_any, portable=True)

    def using(self, **options: Unpack[Using]) -> Callee:
        """Return a callee of the same function with other options."""
        changed = replace(self.options, **options)
        return Callee(self.func, changed, self.is_coroutine, self.check_call, self.portable)

    def __repr__(self) -> str:
        return f"<Callee {self.name}>"


class BareCall(NamedTuple):
    """One call: the function with its options, and all of its arguments."""

    callee: Callee
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Return whether calling func gives a coroutine; a callable object may have an async ``__call__``."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004
    )


def refuse_generator(func: Callable[..., Any]) -> None:
    """Raise ConfigurationError for a generator function, because a call of it runs none of its lines."""
    func = getattr(func, "__func__", func)  # func may be a method, static or not
    call = getattr(func, "__call__", None)  # noqa: B004
    for kind, is_one, loop in (
        ("a generator function", inspect.isgeneratorfunction, "for"),
        ("an async generator function", inspect.isasyncgenfunction, "async for"),
    ):
        if is_one(func) or is_one(call):
            name = getattr(func, "__name__", None) or name_of(func)
            raise ConfigurationError(
                f"{name} is {kind}, and a call of it runs none of its lines: replace its yield by"
                " current_item.report_progress(...), or enqueue a function that loops over it,"
                f" `{loop} _ in {name}(...): pass`"
            )


def call_checker(func: Callable[..., Any]) -> Callable[..., None]:
    """Return a function with func's signature that does nothing, and raises TypeError for a wrong call.

    The function is made from source, as dataclasses and namedtuple do, and is fifty times as fast as
    ``Signature.bind``.
    """
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins have no signature
        return _accept_any
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


def _executor_for(is_coroutine: bool) -> str:
    return "asyncio" if is_coroutine else "thread"


@lru_cache(maxsize=256)
def _bare_options(name: str, executor: str) -> TaskOptions:
    """Return cached options: checking them takes longer than the rest of an enqueue."""
    return TaskOptions(name, executor)


def _accept_any(*args: Any, **kwargs: Any) -> None:
    return None


def _cannot_run(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("an item was started whose task this process does not have")
