"""The setting ``BACKGROUND_EXECUTORS``: the kind of each executor, and how many items it runs at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flask_background.core.checks import is_whole
from flask_background.core.setting_values import count, wrong_setting

Kind = Literal["thread", "native-thread", "asyncio", "process"]

#: The default for ``BACKGROUND_WORKERS``.
THREADS = min(32, (os.cpu_count() or 1) + 4)
# The defaults for the number of coroutines that one executor runs at a time, and of child processes.
_COROUTINES = 5_000
_PROCESSES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """The settings of one executor: its kind, and how many items it runs at the same time."""

    kind: Kind
    capacity: int
    #: For a process executor: the niceness of a child, and its memory limit in MiB (None: no limit).
    nice: int = 0
    max_memory: int | None = None
    #: After how many items a child is replaced; None: it is kept.
    max_items: int | None = None

    @property
    def coroutines_only(self) -> bool:
        """Whether the executor runs only coroutines."""
        return self.kind == "asyncio"


def read_executors(named: object, workers: int) -> dict[str, ExecutorSettings]:
    """Return the settings of all executors by name; ``workers``: the threads of an executor that says none.

    Raises ConfigurationError.
    """
    executors = {
        "thread": ExecutorSettings("thread", workers),
        "asyncio": ExecutorSettings("asyncio", _COROUTINES),
    }
    if not isinstance(named, Mapping):
        raise wrong_setting("BACKGROUND_EXECUTORS", named, "a dict of names to dicts")
    for name, options in named.items():
        key = f"BACKGROUND_EXECUTORS[{name!r}]"
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise wrong_setting(key, options, 'a name and a dict such as {"kind": "thread", "workers": 2}')
        kind = options.get("kind")
        if kind in ("thread", "native-thread"):
            _only(key, options, "workers")
            executors[name] = ExecutorSettings(kind, _option(key, options, "workers", workers))
        elif kind == "asyncio":
            _only(key, options, "limit")
            executors[name] = ExecutorSettings("asyncio", _option(key, options, "limit", _COROUTINES))
        elif kind == "process":
            executors[name] = _processes(key, options)
        else:
            raise wrong_setting(f'{key}["kind"]', kind, '"thread", "native-thread", "asyncio" or "process"')
    for name, kind in (("thread", "thread"), ("asyncio", "asyncio")):
        if executors[name].kind != kind:
            raise wrong_setting(
                f'BACKGROUND_EXECUTORS[{name!r}]["kind"]', executors[name].kind, f'"{kind}" for this name'
            )
    return executors


def _processes(key: str, options: Mapping[str, Any]) -> ExecutorSettings:
    _only(key, options, "workers", "nice", "max_memory", "max_items")
    nice = options.get("nice", 0)
    if not is_whole(nice) or not 0 <= nice <= 19:
        raise wrong_setting(f'{key}["nice"]', nice, "a whole number from 0 to 19")
    memory, items = (
        None if options.get(name) is None else _option(key, options, name, 0)
        for name in ("max_memory", "max_items")
    )
    return ExecutorSettings("process", _option(key, options, "workers", _PROCESSES), nice, memory, items)


def _only(key: str, options: Mapping[str, Any], *names: str) -> None:
    for other in options:
        if other not in ("kind", *names):
            *first, last = (f'"{name}"' for name in ("kind", *names))
            allowed = f"{', '.join(first)} and {last} only, not {other!r}"
            raise wrong_setting(key, dict(options), allowed)


def _option(key: str, options: Mapping[str, Any], name: str, default: int) -> int:
    return count({f'{key}["{name}"]': options.get(name, default)}, f'{key}["{name}"]', default)
