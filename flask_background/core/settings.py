"""The ``BACKGROUND_*`` settings, read once from ``app.config``, at ``init_app``, into a frozen Settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from flask_background.core.checks import at_most, is_duration, is_number, is_whole, shown
from flask_background.core.options import DefaultBackend
from flask_background.errors import ConfigurationError

Kind = Literal["thread", "native-thread", "asyncio", "process"]
Overflow = Literal["raise", "block", "run"]
Durability = Literal["power", "process"]

# The default for each executor's number of simultaneous items, and the option that sets it.
_THREADS = min(32, (os.cpu_count() or 1) + 4)
_COROUTINES = 5_000
_PROCESSES = os.cpu_count() or 1
_CELERY = ("broker_url", "result_backend")
_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


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


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an app. Times are in seconds."""

    #: The backend of items whose task names none.
    backend: DefaultBackend = "local"
    #: The configuration of Celery, for an app without a Celery app.
    celery: Mapping[str, Any] | None = None
    publish_timeout: float = 2.0
    #: Where uploads are stored for items that run on other machines: an absolute path or a URL; None:
    #: nowhere.
    uploads: str | None = None
    grace_period: float = 90.0
    #: How long the host lets the process live once it stops, in seconds; None: what the host itself says.
    host_limit: float | None = None
    max_queued: int = 10_000
    overflow: Overflow = "raise"
    executors: Mapping[str, ExecutorSettings] = field(default_factory=dict)
    #: How long an item in a child process may go on after its token has fired, before its child is killed.
    kill_after: float = 5.0
    #: How long a computing thread may keep the GIL, in seconds; None: Python's default.
    switch_interval: float | None = None
    #: Where child processes find the app, as in "shop:create_app()"; None: found automatically.
    app: str | None = None
    #: The journal's folder; None: ``background-NAME`` in the app's instance folder.
    journal: Path | None = None
    durability: Durability = "power"
    run_in_web: bool = True
    keep: float = 86_400.0
    #: How long a durable item waits that no process of the app can run, before it fails, in seconds.
    park_after: float = 86_400.0
    max_payload: int = 1_000_000
    strict: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read the settings; raises ConfigurationError with the key, the value and the allowed values."""
        workers = _count(config, "BACKGROUND_WORKERS", _THREADS)
        return cls(
            backend=_one_of(config, "BACKGROUND_BACKEND", *get_args(DefaultBackend)),
            celery=_celery(config, "BACKGROUND_CELERY"),
            publish_timeout=_some_seconds(config, "BACKGROUND_PUBLISH_TIMEOUT", 2.0),
            uploads=_shared(config, "BACKGROUND_UPLOADS"),
            grace_period=_seconds(config, "BACKGROUND_GRACE_PERIOD", 90.0),
            host_limit=_limit(config, "BACKGROUND_HOST_LIMIT"),
            max_queued=_count(config, "BACKGROUND_MAX_QUEUED", 10_000),
            overflow=_one_of(config, "BACKGROUND_OVERFLOW", "raise", "block", "run"),
            executors=_executors(config.get("BACKGROUND_EXECUTORS", {}), workers),
            kill_after=_seconds(config, "BACKGROUND_KILL_AFTER", 5.0),
            switch_interval=_switch_interval(config, "BACKGROUND_SWITCH_INTERVAL"),
            app=_location(config, "BACKGROUND_APP"),
            journal=_folder(config, "BACKGROUND_JOURNAL"),
            durability=_one_of(config, "BACKGROUND_DURABILITY", "power", "process"),
            run_in_web=_flag(config, "BACKGROUND_RUN_IN_WEB", True),
            keep=_seconds(config, "BACKGROUND_KEEP", 86_400.0),
            park_after=_seconds(config, "BACKGROUND_PARK_AFTER", 86_400.0),
            max_payload=_count(config, "BACKGROUND_MAX_PAYLOAD", 1_000_000),
            strict=_flag(config, "BACKGROUND_STRICT", False),
        )


def _executors(named: object, workers: int) -> dict[str, ExecutorSettings]:
    executors = {
        "thread": ExecutorSettings("thread", workers),
        "asyncio": ExecutorSettings("asyncio", _COROUTINES),
    }
    if not isinstance(named, Mapping):
        raise _wrong("BACKGROUND_EXECUTORS", named, "a dict of names to dicts")
    for name, options in named.items():
        key = f"BACKGROUND_EXECUTORS[{name!r}]"
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise _wrong(key, options, 'a name and a dict such as {"kind": "thread", "workers": 2}')
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
            raise _wrong(f'{key}["kind"]', kind, '"thread", "native-thread", "asyncio" or "process"')
    for name, kind in (("thread", "thread"), ("asyncio", "asyncio")):
        if executors[name].kind != kind:
            raise _wrong(
                f'BACKGROUND_EXECUTORS[{name!r}]["kind"]', executors[name].kind, f'"{kind}" for this name'
            )
    return executors


def _processes(key: str, options: Mapping[str, Any]) -> ExecutorSettings:
    _only(key, options, "workers", "nice", "max_memory", "max_items")
    nice = options.get("nice", 0)
    if not is_whole(nice) or not 0 <= nice <= 19:
        raise _wrong(f'{key}["nice"]', nice, "a whole number from 0 to 19")
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
            raise _wrong(key, dict(options), allowed)


def _option(key: str, options: Mapping[str, Any], name: str, default: int) -> int:
    return _count({f'{key}["{name}"]': options.get(name, default)}, f'{key}["{name}"]', default)


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not is_whole(value) or value < 1:
        raise _wrong(key, value, "a whole number from 1")
    return value


def _one_of(config: Mapping[str, Any], key: str, *allowed: str) -> Any:
    """Return the setting, which has to be one of these strings; the first one is the default."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        *others, last = (f'"{name}"' for name in allowed)
        raise _wrong(key, value, f"{', '.join(others)} or {last}")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool | None) -> Any:
    value = config.get(key, default)
    if value is not default and not isinstance(value, bool):
        raise _wrong(key, value, "True or False")
    return value


def _folder(config: Mapping[str, Any], key: str) -> Path | None:
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise _wrong(key, value, "the path of a folder, or None for the app's instance folder")
    path = Path(value)
    # A relative path means another folder in each working directory, and so does a URL.
    if not path.is_absolute():
        raise _wrong(key, value, "the absolute path of a folder, or None for the app's instance folder")
    return path


def _celery(config: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = config.get(key)
    if value is None:
        return None
    # The value is left out, because it may contain a password.
    if not isinstance(value, Mapping):
        wrong = f"is not a dict but {type(value).__name__}"
        if isinstance(value, str):
            wrong += ' (the environment takes JSON, {"name": "value"})'
    elif missing := [name for name in _CELERY if not isinstance(value.get(name), str)]:
        wrong = f"has no usable {' and no usable '.join(missing)}"
    else:
        return value
    raise ConfigurationError(
        f"{key} {wrong}; allowed is a dict of Celery's settings with at least"
        ' "broker_url" and "result_backend", or None if the app has a Celery'
    )


def _shared(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    text = text.removeprefix("file://") if isinstance(text, str) else ""
    if not (text.startswith("/") or _URL.match(text)):
        # The value is left out, because it may contain a password.
        raise ConfigurationError(
            f"{key} is not usable; allowed is the absolute path of a folder that all machines share, a URL"
            ' such as "s3://bucket/prefix", or None'
        )
    return text


def _location(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is None:
        return None
    module = value.partition(":")[0] if isinstance(value, str) else ""
    # Perhaps the path of a file
    if module.endswith(".py") or not all(map(str.isidentifier, module.split("."))):
        raise _wrong(key, value, 'module and app, as in "shop:app" or "shop.web:create_app()", or None')
    return str(value)


def _switch_interval(config: Mapping[str, Any], key: str) -> float | None:
    value = config.get(key)
    if value is None:
        return None
    if not is_number(value) or not 1e-5 <= value <= 1:
        raise _wrong(key, value, "seconds, from 0.00001 to 1, or None")
    return float(value)


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not is_duration(value):
        raise _wrong(key, value, "a number of seconds from 0")
    return at_most(value)


def _limit(config: Mapping[str, Any], key: str) -> float | None:
    return None if config.get(key) is None else _some_seconds(config, key, 0.0)


def _some_seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    seconds = _seconds(config, key, default)
    if seconds == 0:
        raise _wrong(key, config[key], "a number of seconds above 0")
    return seconds


def _wrong(key: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{key} is {shown(value)}; allowed is {allowed}")
