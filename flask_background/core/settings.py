"""The ``BACKGROUND_*`` settings, read once from ``app.config``, at ``init_app``, into a frozen Settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from logging import Logger
from pathlib import Path
from typing import Any, Literal, get_args

from flask_background.core.executor_settings import THREADS, ExecutorSettings, read_executors
from flask_background.core.options import BackendName
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

Overflow = Literal["raise", "block", "run"]
Durability = Literal["power", "process"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an app. Times are in seconds."""

    #: The backend of items whose task names none.
    backend: BackendName = "local"
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
        workers = count(config, "BACKGROUND_WORKERS", THREADS)
        return cls(
            backend=one_of(config, "BACKGROUND_BACKEND", *get_args(BackendName)),
            celery=celery_config(config, "BACKGROUND_CELERY"),
            publish_timeout=positive_seconds(config, "BACKGROUND_PUBLISH_TIMEOUT", 2.0),
            uploads=shared_folder(config, "BACKGROUND_UPLOADS"),
            grace_period=seconds(config, "BACKGROUND_GRACE_PERIOD", 90.0),
            host_limit=optional_seconds(config, "BACKGROUND_HOST_LIMIT"),
            max_queued=count(config, "BACKGROUND_MAX_QUEUED", 10_000),
            overflow=one_of(config, "BACKGROUND_OVERFLOW", "raise", "block", "run"),
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
