"""Retries: whether and when another run follows a failed one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flask_background.core.checks import LONGEST, is_duration, is_whole, shown, wrong_option
from flask_background.core.odd_errors import add_note, best_effort, text_of

Backoff = float | Callable[[int, BaseException], float] | None

# The longest delay of the default backoff, in seconds.
_LONGEST = 600.0
#: How often an item can be run at most.
MOST_RUNS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an item may run, after which errors it runs again, and after how many seconds.

    ``backoff`` is a number of seconds before each run; a function of the attempt that failed (from 1) and its
    error, which returns seconds; or None for 1, 2, 4 ... up to 600 s, each times a random factor from 0.5 to
    1, so that items that fail together do not run again together.
    """

    max_attempts: int = 1
    backoff: Backoff = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        if not is_whole(self.max_attempts) or not 1 <= self.max_attempts <= MOST_RUNS:
            raise wrong_option("max_attempts", self.max_attempts, f"a whole number from 1 to {MOST_RUNS}")
        if not (self.backoff is None or callable(self.backoff)):
            if not is_duration(self.backoff):
                raise wrong_option(
                    "backoff",
                    self.backoff,
                    "a number of seconds from 0, a function of attempt and error that returns one, or None",
                )
            if self.backoff > LONGEST:
                object.__setattr__(self, "backoff", LONGEST)
        if not isinstance(self.retry_on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.retry_on
        ):
            raise wrong_option("retry_on", self.retry_on, "a tuple of exception classes, such as (OSError,)")

    def delay_after(self, attempt: int, error: BaseException) -> float | None:
        """Return the seconds until the next run after this error in run number attempt (from 1), or None.

        If the backoff function raises or does not return seconds, the default backoff is used, and a note on
        error says so, which the log then shows.
        """
        if attempt >= self.max_attempts:
            return None
        is_worth_it = False
        with best_effort():  # a class of the app may define its own instance check, which may raise
            is_worth_it = isinstance(error, self.retry_on)
        if not is_worth_it:
            return None
        if self.backoff is None:
            return _default(attempt)
        if not callable(self.backoff):
            return float(self.backoff)
        try:
            delay = self.backoff(attempt, error)
        except BaseException as trouble:  # not even SystemExit may end this thread
            outcome = f"raised {type(trouble).__name__}: {text_of(trouble)}"
        else:
            if is_duration(delay) and delay <= LONGEST:
                return float(delay)
            outcome = f"returned {shown(delay)}, which is not a number of seconds from 0 to a hundred years"
        name = getattr(self.backoff, "__qualname__", None) or shown(self.backoff)
        add_note(error, f"The backoff {name} {outcome}. The default backoff was used.")
        return _default(attempt)


#: The policy of a task without retry options.
ONCE = RetryPolicy()


def _default(attempt: int) -> float:
    doublings = min(attempt - 1, 16)  # a larger number would not fit into a float
    return min(2.0**doublings, _LONGEST) * random.uniform(0.5, 1.0)
