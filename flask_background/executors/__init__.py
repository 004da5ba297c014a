"""What runs items in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from ..config import Settings
    from ..runner import Perform
    from .base import Executor


def make_executors(app: Flask, settings: Settings, perform: Perform) -> dict[str, Executor]:
    """The executors by name. All await on the loop of the one named "asyncio" what functions return."""
    from .aio import AsyncioExecutor  # with asyncio, which takes long to import
    from .threads import ThreadExecutor

    aio = AsyncioExecutor("asyncio", settings.executors["asyncio"].capacity, perform)
    executors: dict[str, Executor] = {}
    for name, wanted in settings.executors.items():
        if name == "asyncio":
            executors[name] = aio
        elif wanted.kind == "asyncio":
            executors[name] = AsyncioExecutor(name, wanted.capacity, perform)
        elif wanted.kind == "process":
            from .processes import ProcessExecutor  # with subprocess, for apps that have one

            executors[name] = ProcessExecutor(name, app, settings, perform)
        else:
            executors[name] = ThreadExecutor(name, wanted.capacity, perform, aio.adopt)
    return executors


def close_all(executors: Mapping[str, Executor]) -> None:
    """End their threads once they have nothing to do."""
    for executor in executors.values():
        executor.close()
