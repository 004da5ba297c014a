"""The executors, which run items in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flask_background.concurrency import native
from flask_background.executors.patches import check_patches

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.callee import Callee
    from flask_background.core.runner import Adopt, Perform
    from flask_background.core.settings import Settings
    from flask_background.executors.base import Executor


def make_executors(
    app: Flask, settings: Settings, perform: Perform, tasks: Mapping[str, Callee]
) -> dict[str, Executor]:
    """Return the executors by name. All await the functions' results on the loop of the one named "asyncio".

    Raises ConfigurationError if gevent or eventlet has patched the process in a way that items cannot work
    with.
    """
    check_patches()
    from flask_background.executors.aio import AsyncioExecutor
    from flask_background.executors.threads import ThreadExecutor

    on_threads: Callable[[str, int, Perform, Adopt], Executor] = ThreadExecutor
    on_a_loop = AsyncioExecutor
    if native.is_patched():
        from flask_background.executors import greenlets  # imports gevent

        on_threads, on_a_loop = greenlets.GreenletExecutor, greenlets.HubAsyncioExecutor

    aio = on_a_loop("asyncio", settings.executors["asyncio"].capacity, perform)
    executors: dict[str, Executor] = {}
    for name, wanted in settings.executors.items():
        if name == "asyncio":
            executors[name] = aio
        elif wanted.kind == "asyncio":
            executors[name] = on_a_loop(name, wanted.capacity, perform)
        elif wanted.kind == "process":
            from flask_background.executors.processes.executor import (
                ProcessExecutor,  # imports subprocess, for apps that have such an executor
            )

            executors[name] = ProcessExecutor(name, app, settings, perform, tasks)
        elif wanted.kind == "native-thread":
            executors[name] = ThreadExecutor(name, wanted.capacity, perform, aio.adopt)
        else:
            executors[name] = on_threads(name, wanted.capacity, perform, aio.adopt)
    return executors


def close_all(executors: Mapping[str, Executor]) -> None:
    """Close the executors: their threads end once they have nothing to do."""
    for executor in executors.values():
        executor.close()
