"""The ``BACKGROUND_*`` settings, read once from ``app.config``, at ``init_app``, into a frozen Settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from logging import Logger
from pathlib import Path
from typing import Any, Literal, get_args

from flask_background.core.executor_settings import THREADS, ExecutorSettings, read_executors
from flask_background.core.options import DefaultBackend
from flask_background.core.setting_values import (
    app_location,
    celery_config,
    count,
    flag,
    folder,
    one_of,
    optional_seconds,
    positive_seconds,
    seconds,
    shared_folder,
    switch_interval,
)

Overflow = Literal["raise", "block", "run", "journal"]
Durability = Literal["power", "process"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an app. Times are in seconds."""

    #: The backend of items: ``"local"`` or ``"celery"``; for tests ``"immediate"`` to run an item inside
    #: ``enqueue``, or ``"manual"`` to let it wait for ``flask_background.testing.run_items()``.
    #: ``@background.task(backend=...)`` sets the backend of one task.
    backend: DefaultBackend = "local"
    #: The configuration of a Celery app, if ``app.extensions["celery"]`` is missing: at least
    #: ``"broker_url"`` and ``"result_backend"``.
    celery: Mapping[str, Any] | None = None
    #: The seconds after which ``enqueue`` gives up on a broker that does not answer.
    publish_timeout: float = 2.0
    #: Where uploads for Celery are stored: the absolute path of a shared folder, or a URL of fsspec's.
    uploads: str | None = None
    #: The seconds that items have once the process stops.
    grace_period: float = 90.0
    #: The seconds after which the host kills a stopping process (``TimeoutStopSec``, ``docker stop -t``).
    #: ``token.remaining`` counts down to one second before that moment, when unfinished items are put on
    #: record. ``None``: gunicorn's own setting; on other hosts no limit.
    host_limit: float | None = None
    #: The number of items that may wait for one executor, besides those that it runs. Durable items wait on
    #: disk, however many.
    max_queued: int = 10_000
    #: When that many items wait: ``"raise"`` QueueFull (a 503 with Retry-After, if the view lets it pass),
    #: ``"block"`` the view, ``"run"`` the item in the view, or enter it in the ``"journal"`` if its arguments
    #: are data (else QueueFull).
    overflow: Overflow = "raise"
    #: Whether items in memory that have not started when their process must end are entered in the journal,
    #: from which another process runs them: those of tasks, whose arguments are data.
    hand_over: bool = True
    #: More executors, by name: ``{"mail": {"kind": "thread", "workers": 2}}``. The kinds are ``"thread"`` and
    #: ``"native-thread"`` (with ``"workers"``), ``"asyncio"`` (with ``"limit"``) and ``"process"`` (with
    #: ``"workers"``, ``"nice"``, ``"max_memory"`` in MiB, ``"max_items"``).
    executors: Mapping[str, ExecutorSettings] = field(default_factory=dict)
    #: The seconds that an item in a child process has, after its time is up or the item was cancelled, until
    #: the child is killed.
    kill_after: float = 5.0
    #: The seconds, for example ``0.0005``, after which a computing thread lets another thread of the process
    #: run. ``None`` keeps Python's ``0.005``, or the app's own setting.
    switch_interval: float | None = None
    #: Where child processes find the app: ``"shop:app"``, ``"shop.web:create_app('eu')"``. ``None``: found
    #: automatically.
    app: str | None = None
    #: The absolute path of the journal's folder, for the app's user alone. ``None``: ``background-NAME`` in
    #: the instance folder, with the app's name.
    journal: Path | None = None
    #: The losses that durable items survive: ``"power"`` cuts, or only the death of the ``"process"``.
    durability: Durability = "power"
    #: Whether this process runs durable items, or leaves them to other processes of the app.
    run_in_web: bool = True
    #: The seconds for which durable items that have ended can be found.
    keep: float = 86_400.0
    #: The seconds that a durable item waits whose task or executor no process of the app has. Then the item
    #: fails.
    park_after: float = 86_400.0
    #: The bytes that the arguments, and the result, of a durable item may have as JSON. Errors and progress
    #: messages are cut to this size.
    max_payload: int = 1_000_000
    #: Whether the arguments of every task have to be data, like those of durable tasks. Set it, for example
    #: in tests, if ``durable=True`` or Celery may come later.
    strict: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read the settings; raises ConfigurationError with the key, the value and the allowed values."""
        workers = count(config, "BACKGROUND_WORKERS", THREADS)
        return cls(
            backend=one_of(config, "BACKGROUND_BACKEND", *get_args(DefaultBackend)),
            celery=celery_config(config, "BACKGROUND_CELERY"),
            publish_timeout=positive_seconds(config, "BACKGROUND_PUBLISH_TIMEOUT", 2.0),
            uploads=shared_folder(config, "BACKGROUND_UPLOADS"),
            grace_period=seconds(config, "BACKGROUND_GRACE_PERIOD", 90.0),
            host_limit=optional_seconds(config, "BACKGROUND_HOST_LIMIT"),
            max_queued=count(config, "BACKGROUND_MAX_QUEUED", 10_000),
            overflow=one_of(config, "BACKGROUND_OVERFLOW", *get_args(Overflow)),
            hand_over=flag(config, "BACKGROUND_HAND_OVER", True),
            executors=read_executors(config.get("BACKGROUND_EXECUTORS", {}), workers),
            kill_after=seconds(config, "BACKGROUND_KILL_AFTER", 5.0),
            switch_interval=switch_interval(config, "BACKGROUND_SWITCH_INTERVAL"),
            app=app_location(config, "BACKGROUND_APP"),
            journal=folder(config, "BACKGROUND_JOURNAL"),
            durability=one_of(config, "BACKGROUND_DURABILITY", "power", "process"),
            run_in_web=flag(config, "BACKGROUND_RUN_IN_WEB", True),
            keep=seconds(config, "BACKGROUND_KEEP", 86_400.0),
            park_after=seconds(config, "BACKGROUND_PARK_AFTER", 86_400.0),
            max_payload=count(config, "BACKGROUND_MAX_PAYLOAD", 1_000_000),
            strict=flag(config, "BACKGROUND_STRICT", False),
        )


def unknown_keys(config: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Find the keys that look like settings and are none, each with the nearest known key, or None."""
    known = ["WORKERS", *(one.name.upper() for one in fields(Settings))]
    for key in config:
        name = str(key).removeprefix("BACKGROUND_")
        if name != key and name not in known:
            close = get_close_matches(name, known, 1)
            yield key, f"BACKGROUND_{close[0]}" if close else None


def warn_of_unknown_keys(config: Mapping[str, Any], log: Logger) -> None:
    """Log a warning for each key that looks like a setting and is none."""
    for key, close in unknown_keys(config):
        cure = f"{close} may be meant" if close else "give it another name, if it is the app's own"
        log.warning("%s is no setting of Flask-Background, and has no effect: %s", key, cure)
