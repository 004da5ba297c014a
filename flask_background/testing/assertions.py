"""Assertions on the items that a block has recorded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask_background.core.checks import shown
from flask_background.task import Task
from flask_background.testing.apps import find_app
from flask_background.testing.recording import RecordedItem, RecordedItems, record_of

#: A task, the function of ``background.enqueue``, or the name of a task.
Which = Task[..., Any] | Callable[..., Any] | str


def assert_enqueued(
    task: Which,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    delay: float | timedelta | None = None,
    count: int | None = None,
) -> RecordedItem:
    """Assert that items of a task were enqueued in the innermost block, and return the first of them.

    ``args``, ``kwargs``: the arguments of the call; without both, arguments do not matter. A parameter may be
    given either way, one that is not given means its default, and ``unittest.mock.ANY`` equals any value.
    ``delay``: the option, as seconds or a timedelta. ``count``: how many such items; None: at least one.
    Raises AssertionError, which lists what was enqueued, and TypeError if the task has no such parameters.
    """
    __tracebackhide__ = True
    record = record_of(find_app(task if isinstance(task, Task) else None))
    found = _find(record, task, args, kwargs, delay)
    if len(found) != count and not (count is None and found):
        wanted = "an item" if count is None else f"{count} items"
        raise AssertionError(
            f"{wanted} of {_describe(task, args, kwargs, delay)} should have been enqueued, and"
            f" {len(found)} {'was' if len(found) == 1 else 'were'}. Enqueued was:\n{record}"
        )
    return found[0]


def refute_enqueued(
    task: Which,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    delay: float | timedelta | None = None,
) -> None:
    """Assert that no such item was enqueued in the innermost block; see ``assert_enqueued``."""
    __tracebackhide__ = True
    record = record_of(find_app(task if isinstance(task, Task) else None))
    if found := _find(record, task, args, kwargs, delay):
        raise AssertionError(
            f"no item of {_describe(task, args, kwargs, delay)} should have been enqueued, and {len(found)}"
            f" {'was' if len(found) == 1 else 'were'}. Enqueued was:\n{record}"
        )


def _find(
    record: RecordedItems,
    task: Which,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    delay: float | timedelta | None,
) -> list[RecordedItem]:
    wanted = None if args is None and kwargs is None else (tuple(args or ()), dict(kwargs or {}))
    if wanted is not None and isinstance(task, Task):
        wanted = task._all_args(wanted[0]), wanted[1]
        _bind(task.func, task.name, *wanted)  # raises TypeError, also if no item is of this task
    return [
        each
        for each in record
        if _is_of(each, task)
        and (delay is None or _seconds(each.options.delay) == _seconds(delay))
        and (wanted is None or _is_same_call(each, *wanted))
        and each.is_enqueued
    ]


def _is_of(recorded: RecordedItem, task: Which) -> bool:
    if isinstance(task, Task):
        return recorded.func is task.func and recorded.task_name == task.name
    return recorded.task_name == task if isinstance(task, str) else recorded.func == task


def _is_same_call(recorded: RecordedItem, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    wanted = _bind(recorded.func, recorded.task_name, args, kwargs)
    if wanted is None:
        return (recorded.args, recorded.kwargs) == (args, kwargs)
    found = wanted.signature.bind(*recorded.args, **recorded.kwargs)
    wanted.apply_defaults()
    found.apply_defaults()
    # The wanted value first: an object that equals many, such as ANY, decides.
    return all(value == found.arguments[name] for name, value in wanted.arguments.items())


def _bind(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments | None:
    """Return the arguments by their parameters; None for a builtin without a signature."""
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name} cannot be called with these arguments: {error}") from None


def _seconds(delay: float | timedelta | None) -> float | None:
    return delay.total_seconds() if isinstance(delay, timedelta) else delay


def _describe(
    task: Which,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    delay: float | timedelta | None,
) -> str:
    name = task if isinstance(task, str) else getattr(task, "name", None) or shown(task)
    call = ""
    if args is not None or kwargs is not None:
        given = [*map(shown, args or ()), *(f"{key}={shown(value)}" for key, value in (kwargs or {}).items())]
        call = f"({', '.join(given)})"
    return f"{name}{call}" + ("" if delay is None else f" delay={delay}")
