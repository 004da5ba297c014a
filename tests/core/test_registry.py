"""The tasks of a Background by name, and the tasks of items in a journal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_background import Background
from flask_background.core.callee import Callee
from flask_background.core.registry import Registry
from flask_background.core.retry import ONCE
from flask_background.core.schedule import Every
from flask_background.durable.journal.row import ItemRow
from flask_background.errors import ConfigurationError

from ..durable.rows import ROW

ENTRY = ROW._replace(options='{"timeout": null, "max_attempts": 1, "backoff": null}')


def send() -> None:
    """A function."""


def other() -> None:
    """Another one."""


def backoff(attempt: int, error: BaseException) -> float:
    """A backoff function."""
    return 1.0


@pytest.fixture
def background() -> Background:
    """A Background without an app."""
    return Background()


@pytest.fixture
def registry(background: Background) -> Registry:
    """The registry of the Background."""
    return background._registry


def make(background: Background, func: Any = send, **options: Any) -> Callee:
    """Make a task, and return its callee."""
    background.task(**{"name": "mail", **options})(func)  # type: ignore[arg-type]
    return background._registry.tasks[options.get("name", "mail")]


def test_known(background: Background, registry: Registry) -> None:
    """The registry knows a task by its name, and whether any task is durable."""
    assert not registry.has_durable()
    task = make(background)
    assert registry.tasks == {"mail": task}
    assert not registry.has_durable()
    durable = make(background, other, name="pdf", durable=True)
    assert registry.tasks == {"mail": task, "pdf": durable}
    assert registry.has_durable()


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_two_of_one_name(background: Background, registry: Registry, first: bool, second: bool) -> None:
    """Two functions cannot have one name if one of them is durable; the first one stays."""
    task = make(background, durable=first)
    with pytest.raises(ConfigurationError, match=r"two tasks are named 'mail'.*name=\.\.\."):
        make(background, other, durable=second)
    assert registry.tasks == {"mail": task}


def test_two_in_memory(background: Background, registry: Registry) -> None:
    """Two tasks that are not durable may have one name, because an item has its function."""
    make(background)
    second = make(background, other)
    assert registry.tasks == {"mail": second}


def test_same_function_again(background: Background, registry: Registry) -> None:
    """A module that is loaded again, or an app that is made again, brings the same tasks."""
    make(background, durable=True)
    again = make(background, durable=True)
    assert registry.tasks == {"mail": again}


def test_periodic(background: Background, registry: Registry) -> None:
    """The schedule is known by the task's name; the last one counts."""
    task = make(background, durable=True)
    registry.add_periodic(task, Every(1.0))
    registry.add_periodic(task, Every(2.0))
    assert registry.periodic == {"mail": (task, Every(2.0), False)}


def task_of(registry: Registry, entry: ItemRow) -> Any:
    """The task of an item in the journal."""
    return registry.task_of(entry.task, entry.executor, entry.options)


def test_task_of(background: Background, registry: Registry) -> None:
    """The task of a journaled item has the options that the item was enqueued with."""
    task = make(background, durable=True, timeout=5, max_attempts=2, backoff=7, max_crashes=9)
    options = {"timeout": 30.0, "max_attempts": 4, "backoff": 0.5}
    found = task_of(registry, ENTRY._replace(executor="mail", options=json.dumps(options)))
    assert (found.func, found.name, found.executor, found.timeout) == (send, "mail", "mail", 30.0)
    assert (found.retry.max_attempts, found.retry.backoff, found.options.max_crashes) == (4, 0.5, 9)
    assert found.durable
    assert task.timeout == 5


def test_task_of_with_a_function(background: Background, registry: Registry) -> None:
    """A backoff function is the task's own, and is not in the journal."""
    make(background, durable=True, backoff=backoff)
    found = task_of(registry, ENTRY._replace(options='{"timeout": null, "max_attempts": 2}'))
    assert found.retry.backoff is backoff


def test_task_that_became_one_in_memory(background: Background, registry: Registry) -> None:
    """Items in the journal stay durable, even if their task no longer is."""
    make(background)
    assert task_of(registry, ENTRY).durable


def test_unknown_task(registry: Registry) -> None:
    """A stand-in for an unknown task has its name and executor, and cannot run."""
    found = task_of(registry, ENTRY._replace(task="gone", executor="mail", options="no JSON"))
    assert (found.name, found.executor, found.durable, found.portable) == ("gone", "mail", True, True)
    assert (found.key, found.timeout, found.retry, found.due) == (None, None, ONCE, None)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "{",
        "null",
        "[1]",
        "7",
        '{"func": 1}',
        '{"name": ""}',
        '{"timeout": "soon"}',
        '{"timeout": -1}',
        '{"timeout": NaN}',
        '{"max_attempts": 0}',
        '{"max_attempts": 1.5}',
        '{"backoff": [1]}',
        '{"executor": "x"}',
        '{"durable": false}',
    ],
)
def test_malformed_options(background: Background, registry: Registry, options: str) -> None:
    """Options in a row that no version wrote raise an error, for which the item is parked."""
    make(background, durable=True)
    with pytest.raises((ConfigurationError, TypeError, ValueError)):
        task_of(registry, ENTRY._replace(options=options))


def test_portable(background: Background, registry: Registry) -> None:
    """Options that another process can make again may be changed; functions and classes may not."""
    task = make(background, durable=True, backoff=backoff, retry_on=(OSError,))
    registry.check_portable(task)
    registry.check_portable(task.using(timeout=1, max_attempts=9, backoff=2.0, delay=3, key="k"))
    registry.check_portable(task.using(backoff=backoff, retry_on=(OSError,)))
    with pytest.raises(ConfigurationError, match="retry_on cannot be changed by using"):
        registry.check_portable(task.using(retry_on=(KeyError,)))
    with pytest.raises(ConfigurationError, match="backoff cannot be changed by using"):
        registry.check_portable(task.using(backoff=lambda attempt, error: 1.0))


def test_foreign_is_not_portable(background: Background, registry: Registry) -> None:
    """A task is refused if the registry does not have it, or has another function by its name."""
    task = make(background).using(durable=True)
    with pytest.raises(ConfigurationError, match="another one of this name"):
        Registry().check_portable(task)
    make(background, other)
    with pytest.raises(ConfigurationError, match="another one of this name"):
        registry.check_portable(task)
