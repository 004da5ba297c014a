"""What runs items in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import ExecutorSettings
    from ..runner import Perform
    from .base import Executor


def make_executors(settings: Mapping[str, ExecutorSettings], perform: Perform) -> dict[str, Executor]:
    """The executors by name. All await on the loop of the one named "asyncio" what functions return."""
    from .aio import AsyncioExecutor  # with asyncio, which takes long to import
    from .threads import ThreadExecutor

    aio = AsyncioExecutor("asyncio", settings["asyncio"].capacity, perform)
    executors: dict[str, Executor] = {}
    for name, wanted in settings.items():
        if name == "asyncio":
            executors[name] = aio
        elif wanted.kind == "asyncio":
            executors[name] = AsyncioExecutor(name, wanted.capacity, perform)
        else:
            executors[name] = ThreadExecutor(name, wanted.capacity, perform, aio.adopt)
    return executors


def close_all(executors: Mapping[str, Executor]) -> None:
    """End their threads once they have nothing to do."""
    for executor in executors.values():
        executor.close()
