"""The options of a task: how its items are run, and when they start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from flask_background.core.checks import LONGEST, is_duration, is_text, is_whole, wrong_option
from flask_background.core.retry import MOST_RUNS, Backoff, RetryPolicy
from flask_background.core.schedule import to_timestamp
from flask_background.errors import ConfigurationError

When = Literal["now", "response", "commit"]
BackendName = Literal["local", "immediate", "celery"]
#: ``BACKGROUND_BACKEND``: "manual" is for tests, and not for one task alone.
DefaultBackend = Literal["local", "immediate", "celery", "manual"]
#: Returns a short text about an item, from the arguments of the item.
Describe = Callable[..., object]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of a task. ``timeout`` is in seconds, from the beginning of a run."""

    name: str
    executor: str
    timeout: float | None = None
    when: When = "now"
    durable: bool = False
    backend: BackendName | None = None
    fallback: Literal["local"] | None = None
    max_attempts: int = 1
    backoff: Backoff = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    max_crashes: int = 3
    delay: float | timedelta | None = None
    run_at: datetime | None = None
    key: str | None = None
    describe: Describe | None = None
    retry: RetryPolicy = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not is_text(self.name):
            raise wrong_option("name", self.name, "a string that is not empty, of well-formed text")
        if not is_text(self.executor):
            raise wrong_option("executor", self.executor, "the name of an executor, such as 'thread'")
        if self.timeout is not None:
            if not is_duration(self.timeout) or self.timeout == 0:
                raise wrong_option("timeout", self.timeout, "a number of seconds above 0, or None")
            if self.timeout > LONGEST:
                object.__setattr__(self, "timeout", LONGEST)
        if self.when not in ("now", "response", "commit"):
            raise wrong_option("when", self.when, '"now", "response" or "commit"')
        if not isinstance(self.durable, bool):
            raise wrong_option("durable", self.durable, "True or False")
        if self.backend not in (None, *get_args(BackendName)):
            raise wrong_option(
                "backend", self.backend, '"local", "immediate" or "celery", or None for BACKGROUND_BACKEND'
            )
        if self.fallback is not None:
            self._check_fallback()
        if not is_whole(self.max_crashes) or not 1 <= self.max_crashes <= MOST_RUNS:
            raise wrong_option("max_crashes", self.max_crashes, f"a whole number from 1 to {MOST_RUNS}")
        if self.key is not None and not is_text(self.key):
            raise wrong_option("key", self.key, "a string that is not empty, of well-formed text, or None")
        if self.when == "response" and self.is_delayed:
            raise wrong_option("when", self.when, '"now" or "commit" where a delay or run_at is given')
        to_timestamp(self.delay, self.run_at, 0.0)  # raises if delay or run_at is not usable
        retry = RetryPolicy(self.max_attempts, self.backoff, self.retry_on)
        object.__setattr__(self, "backoff", retry.backoff)
        object.__setattr__(self, "retry", retry)

    def _check_fallback(self) -> None:
        if self.fallback != "local":
            raise wrong_option("fallback", self.fallback, '"local" or None')
        if self.durable:
            raise ConfigurationError(
                f"task {self.name} is durable and has a fallback: where Celery cannot be reached the journal"
                " keeps durable items until it can be, so leave fallback out"
            )
        if self.backend not in (None, "celery"):
            raise ConfigurationError(
                f'task {self.name} has backend="{self.backend}" and a fallback, which is for items that go to'
                " Celery: leave one of the two out (in using(), fallback=None)"
            )

    @property
    def is_delayed(self) -> bool:
        """Whether items start at a later time."""
        return self.delay is not None or self.run_at is not None

    def due(self, now: float) -> float:
        """Return when an item that is enqueued now may start; both times are ``time.time()``."""
        return to_timestamp(self.delay, self.run_at, now)


class _RunOptions(TypedDict, total=False):
    executor: str
    timeout: float | None
    when: When
    durable: bool
    backend: BackendName | None
    fallback: Literal["local"] | None
    max_attempts: int
    backoff: Backoff
    retry_on: tuple[type[BaseException], ...]
    max_crashes: int


class Options(_RunOptions, total=False):
    """The options that ``Background.task`` takes."""

    name: str
    describe: Describe | None


class Using(_RunOptions, total=False):
    """The options that ``using`` can change."""

    delay: float | timedelta | None
    run_at: datetime | None
    key: str | None


# Option names of other task libraries, and what Flask-Background has in their place.
_EXECUTOR = 'executor="mail" (BACKGROUND_EXECUTORS makes executors with workers of their own) may be meant'
_DELAY = "using(delay=60).enqueue(...) may be meant (seconds; or run_at=, an aware datetime)"
_KEY = 'using(key="...").enqueue(...) may be meant: enqueue returns an item in flight with that key'
_RETRY_ON = "retry_on=(OSError,), the exceptions that are worth another run, may be meant"
_BACKOFF = "backoff=30 (seconds between two runs, or a function that returns them) may be meant"
_TIMEOUT = "timeout=30 (seconds that a run may take) may be meant"
_FOREIGN = {
    **dict.fromkeys(("channel", "lane", "pool", "priority", "queue", "queue_name", "worker"), _EXECUTOR),
    **dict.fromkeys(("countdown", "delay_seconds", "eta", "run_after", "start_at"), _DELAY),
    **dict.fromkeys(("lock", "unique", "unique_key"), _KEY),
    **dict.fromkeys(("autoretry_for", "retry_exceptions", "retry_when", "throws"), _RETRY_ON),
    **dict.fromkeys(("default_retry_delay", "min_backoff", "retry_backoff", "retry_delay"), _BACKOFF),
    **dict.fromkeys(("job_timeout", "soft_time_limit", "time_limit"), _TIMEOUT),
    "bind": "leave it out: current_item is there in every task",
    "result_ttl": "the setting BACKGROUND_KEEP may be meant",
    "schedule": "@background.periodic(...) may be meant",
}
_RUNS = ("max_retries", "max_retry", "max_tries", "num_retries", "retries", "retry", "tries")


def check_names(options: Mapping[str, Any], *, by_using: bool = False) -> None:
    """Raise ConfigurationError for an unknown option; the message suggests a known one.

    ``by_using``: the options were given to ``using``, which takes other options than ``Background.task``.
    """
    allowed, elsewhere = (Using, Options) if by_using else (Options, Using)
    for name in options.keys() - allowed.__optional_keys__:
        if name in elsewhere.__optional_keys__:
            cure = (
                "give it where the task is made, @background.task(name=...)"
                if by_using
                else f"give it to using(), as in using({name}=...).enqueue(...)"
            )
        elif name in _RUNS:
            retries = options[name]
            counted = is_whole(retries) and 0 <= retries < 1_000
            cure = f"max_attempts={retries + 1 if counted else 4} (runs, not retries) may be meant"
        elif name in _FOREIGN:
            cure = _FOREIGN[name]
        elif close := get_close_matches(name, allowed.__optional_keys__, 1):
            cure = f"{close[0]} may be meant"
        else:
            cure = f"the options are {', '.join(sorted(allowed.__optional_keys__))}"
        where = "using" if by_using else "task"
        raise ConfigurationError(f"{where}(...) has no option {name!r}; {cure}")


def name_of(func: Callable[..., Any]) -> str:
    """Return the default name of a task: ``module.function``."""
    named = getattr(func, "func", func)  # func may be a partial
    name = getattr(named, "__qualname__", type(named).__qualname__)
    return f"{name_elsewhere(getattr(named, '__module__', None) or '?')}.{name}"


def name_elsewhere(module: str) -> str:
    """Return a module's name in other processes, which know the ``__main__`` module by its real name."""
    main = sys.modules.get("__main__")
    if module != "__main__" or main is None:
        return module
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # the process was started by python -m
        return str(spec.name)
    return module if file is None else Path(file).stem
