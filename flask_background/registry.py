"""The tasks of a Background by name: what a journal says is run only if it is one of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .schedule import Schedule
    from .task import Task


class Periodic(NamedTuple):
    """A task that is enqueued again and again."""

    task: Task[..., Any]
    schedule: Schedule


class Registry:
    """The tasks, and which of them are periodic."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self.periodic: dict[str, Periodic] = {}
        self._has_durable = False

    def add(self, task: Task[..., Any]) -> None:
        """Enter a task. Raises ConfigurationError if two have one name, and one of them is durable."""
        other = self.tasks.get(task.name)
        if (
            other is not None
            and (task.options.durable or other.options.durable)
            and (task.func.__module__, task.func.__qualname__)
            != (other.func.__module__, other.func.__qualname__)
        ):
            raise ConfigurationError(
                f"two tasks are named {task.name!r}, and one is durable: its items in the journal would not know"
                " which of them is meant. Give one another name, @background.task(name=...)"
            )
        self.tasks[task.name] = task
        self._has_durable = self._has_durable or task.options.durable

    def add_periodic(self, task: Task[..., Any], schedule: Schedule) -> None:
        """Let a durable task be enqueued by the schedule."""
        self.periodic[task.name] = Periodic(task, schedule)

    def has_durable(self) -> bool:
        """Whether any task may have items in the journal."""
        return self._has_durable
