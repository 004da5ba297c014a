"""The tasks of a Background by name, and the functions around their items.

Items in the journal can only run tasks of this registry.
"""

from __future__ import annotations

import json
import weakref
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flask_background.core.callee import Callee
from flask_background.core.options import name_of
from flask_background.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from flask_background.core.around import AroundFunction
    from flask_background.core.schedule import Schedule


class Periodic(NamedTuple):
    """A task that is enqueued by a schedule."""

    task: Callee
    schedule: Schedule
    #: Whether an item may start while an earlier one runs.
    overlap: bool = False


class UsesRegistry(Protocol):
    """An app that has to know which backends its tasks name."""

    def backend_is_named(self, name: str) -> None: ...


class Registry:
    """The tasks of a Background, the schedules of the periodic ones, and the functions around items."""

    def __init__(self) -> None:
        self.tasks: dict[str, Callee] = {}
        self.periodic: dict[str, Periodic] = {}
        #: The functions around each run of an item, and around each enqueue, the outermost first.
        self.around_item: list[AroundFunction] = []
        self.around_enqueue: list[AroundFunction] = []
        self._has_durable = False
        self._apps: weakref.WeakSet[UsesRegistry] = weakref.WeakSet()

    def tell_backends(self, app: UsesRegistry) -> None:
        """Tell an app of each backend that a task names, now and whenever a task is added."""
        self._apps.add(app)
        for task in tuple(self.tasks.values()):
            if task.options.backend is not None:
                app.backend_is_named(task.options.backend)

    def add(self, task: Callee) -> None:
        """Add a task. Raises ConfigurationError if two tasks have one name, and one of them is durable."""
        other = self.tasks.get(task.name)
        if (
            other is not None
            and (task.options.durable or other.options.durable)
            and name_of(task.func) != name_of(other.func)
        ):
            raise ConfigurationError(
                f"two tasks are named {task.name!r}, and one is durable: the journal could not"
                " tell their items apart. Give one another name, @background.task(name=...)"
            )
        self.tasks[task.name] = task
        self._has_durable = self._has_durable or task.options.durable
        if task.options.backend is not None:
            for app in tuple(self._apps):
                app.backend_is_named(task.options.backend)

    def add_periodic(self, task: Callee, schedule: Schedule, overlap: bool = False) -> None:
        """Add a schedule for a task. Raises ConfigurationError if the journal cannot enqueue the task."""
        if not task.options.durable:
            raise ConfigurationError(
                f"task {task.name} is periodic, so it has to be durable: @background.task(durable=True),"
                " or @background.periodic(...) alone"
            )
        if task.options.backend not in (None, "local"):
            raise UnsupportedError(
                f"task {task.name} is periodic, and only the journal can enqueue periodic tasks: leave"
                " backend out, and let its item enqueue an item of a task with that backend"
            )
        self.periodic[task.name] = Periodic(task, schedule, overlap)

    def task_of(self, name: str, executor: str, options: str) -> Callee:
        """Return the task of an item in the journal, with the options (JSON) that it was enqueued with."""
        task = self.tasks.get(name)
        if task is None:
            return Callee.unknown(name, executor)
        return task.using(executor=executor, durable=True, fallback=None, **json.loads(options))

    def check_portable(self, task: Callee) -> None:
        """Raise ConfigurationError if another process could not run the task with these options."""
        known = self.tasks.get(task.name)
        if known is task:
            return
        why = "is durable" if task.options.durable else "goes to other processes"
        if known is None or known.func is not task.func:
            raise ConfigurationError(
                f"task {task.name} {why}, and there is another one of this name: other processes could"
                " not tell them apart. Give it a name, @background.task(name=...)"
            )
        for option in ("backoff", "retry_on"):
            value = getattr(task.options, option)
            if value != getattr(known.options, option) and (option == "retry_on" or callable(value)):
                raise ConfigurationError(
                    f"task {task.name} {why}, so {option} cannot be changed by using(): functions and"
                    " classes do not go with an item. Give it where the task is made"
                )

    def names_backend(self, name: str) -> bool:
        """Return whether a task names this backend."""
        return any(task.options.backend == name for task in self.tasks.values())

    def has_durable(self, backend: str = "local") -> bool:
        """Return whether a task may have items in the journal. ``backend``: the default backend."""
        return self._has_durable and (
            bool(self.periodic)
            or any(
                task.options.durable and (task.options.backend or backend) == "local"
                for task in self.tasks.values()
            )
        )
