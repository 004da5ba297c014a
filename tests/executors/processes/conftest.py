"""Apps with an executor of child processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flask_background import Task, WorkItem, hosts

from ...children import Shipping, add_tasks
from ...helpers import BOUND, Site, until
from ...integration.servers import alive

CPU = {"kind": "process", "workers": 2}
ONE = {"cpu": CPU | {"workers": 1}}


def children(pid: int | str = "self") -> set[int]:
    """The pids of a process's children, by default of this one's."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            found |= set(map(int, (task / "children").read_text().split()))
    return set(filter(alive, found))


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """No child outlives its app."""
    before = children()
    yield
    for backend in hosts.current().backends():
        backend.stop(0)
    until(lambda: not children() - before)


class Shop:
    """An app with a process executor, and the tasks that its children know."""

    def __init__(self, site: Site, folder: Path, **options: Any) -> None:
        self.site = site
        self.background = site.background
        self.folder = folder
        self.tasks: dict[str, Task[..., Any]] = add_tasks(site.background, **options)

    def call(self, func: Callable[..., Any], *args: Any, **options: Any) -> WorkItem[Any]:
        """Enqueue a call of a function of the test."""
        return Shipping(self.tasks["work"].using(**options), func).enqueue(*args)

    def pid(self) -> int:
        """The process that runs the next item."""
        pid = self.call(os.getpid).result(BOUND)
        assert isinstance(pid, int)
        return pid

    def begin(self, name: str, **options: Any) -> tuple[WorkItem[Any], int]:
        """Start an item that writes a pid into a file; both."""
        path = self.folder / f"{name}-{time.monotonic()}"
        item = self.tasks[name].using(**options).enqueue(str(path))
        return item, int(until(lambda: path.exists() and path.read_text()))


@pytest.fixture
def make_shop(make_site: Callable[..., Site], tmp_path: Path) -> Callable[..., Shop]:
    """Makes apps with an executor "cpu"; durable: with tasks that are."""

    def make(durable: bool = False, cpu: dict[str, Any] = CPU, **settings: Any) -> Shop:
        given = {
            "BACKGROUND_EXECUTORS": {"cpu": cpu},
            "BACKGROUND_APP": "tests.children:create_app",
            "BACKGROUND_KILL_AFTER": 0.2,
            "BACKGROUND_JOURNAL": tmp_path / "journal",
        }
        return Shop(make_site(**given | settings), tmp_path, durable=durable)

    return make


@pytest.fixture(params=[False, True], ids=["memory", "durable"])
def any_shop(request: pytest.FixtureRequest, make_shop: Callable[..., Shop]) -> Shop:
    """A shop whose items are in memory, or durable."""
    return make_shop(request.param)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """A shop whose items are in memory."""
    return make_shop()
