"""Whether an executor fits a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flask_background.core.callee import Callee
from flask_background.errors import ConfigurationError


class Kind(Protocol):
    """The part of an executor, or of its settings, that this check needs."""

    @property
    def coroutines_only(self) -> bool: ...


def check_executor(task: Callee, executors: Mapping[str, Kind]) -> None:
    """Raise ConfigurationError if no executor fits this task."""
    executor = executors.get(task.executor)
    if executor is None or (executor.coroutines_only and not task.is_coroutine):
        raise mismatch(task, executors)


def mismatch(task: Callee, executors: Mapping[str, Kind]) -> ConfigurationError:
    """Return the error for a task whose executor is missing or does not fit."""
    if task.executor not in executors:
        return ConfigurationError(
            f"task {task.name} names the executor {task.executor!r}; this app has"
            f" {', '.join(sorted(executors))}. BACKGROUND_EXECUTORS adds more"
        )
    return ConfigurationError(
        f"task {task.name} is not a coroutine function, and the executor {task.executor!r} runs"
        " coroutines: the task would block all of them. Leave the executor out, or name one of threads"
    )
