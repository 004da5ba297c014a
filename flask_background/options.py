"""The options of a task: how its items are run, and when they start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from .errors import ConfigurationError

When = Literal["now", "response"]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task's items are run. ``timeout`` is in seconds, from the beginning of the run."""

    name: str
    executor: str
    timeout: float | None = None
    when: When = "now"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise _wrong("name", self.name, "a string that is not empty")
        if not isinstance(self.executor, str):
            raise _wrong("executor", self.executor, "the name of an executor, such as 'thread'")
        if self.timeout is not None and not (
            isinstance(self.timeout, (int, float))
            and not isinstance(self.timeout, bool)
            and 0 < self.timeout < math.inf
        ):
            raise _wrong("timeout", self.timeout, "a number of seconds above 0, or None")
        if self.when not in ("now", "response"):
            raise _wrong("when", self.when, '"now" or "response"')


class Using(TypedDict, total=False):
    """The options that ``using`` can change."""

    when: When
    timeout: float | None
    executor: str


def _wrong(option: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"the task's option {option} is {value!r}; allowed is {allowed}")
