"""Whether a failed run is tried again, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flask_background.core.checks import LONGEST, is_duration, is_whole, shown, wrong_option
from flask_background.core.odd_errors import add_note, best_effort, text_of

Backoff = float | Callable[[int, BaseException], float] | None

# The longest that the default backoff waits, in seconds.
_LONGEST = 600.0
#: How often an item can be run at most.
MOST_RUNS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a task's item may run, after which errors, and how long it waits between the runs.

    ``backoff``: None for 1, 2, 4 ... up to 600 s, each times a random factor from 0.5 to 1, so that what
    failed together does not come back together; a number of seconds, which is waited every time; or a
    function of the attempt that failed (from 1) and its error that returns one.
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
        """Seconds until the next run when run number attempt (from 1) ended with error; None: there is none.

        Where the backoff is a function that raises, or returns no number of seconds, the default is used
        instead, and error gets a note that says so: it is on the log with error then.
        """
        if attempt >= self.max_attempts:
            return None
        is_worth_it = False
        with best_effort():  # a class of the app's may say in its own way what its instances are
            is_worth_it = isinstance(error, self.retry_on)
        if not is_worth_it:
            return None
        if self.backoff is None:
            return _default(attempt)
        if not callable(self.backoff):
            return float(self.backoff)
        try:
            delay = self.backoff(attempt, error)
        except BaseException as trouble:  # SystemExit ends no thread here, either
            outcome = f"raised {type(trouble).__name__}: {text_of(trouble)}"
        else:
            if is_duration(delay) and delay <= LONGEST:
                return float(delay)
            outcome = f"returned {shown(delay)}, which is not a number of seconds from 0 to a hundred years"
        name = getattr(self.backoff, "__qualname__", None) or shown(self.backoff)
        add_note(error, f"The backoff {name} {outcome}. The default backoff was used.")
        return _default(attempt)


#: Of a task that says nothing about it.
ONCE = RetryPolicy()


def _default(attempt: int) -> float:
    doublings = min(attempt - 1, 16)  # no number too large for a float
    return min(2.0**doublings, _LONGEST) * random.uniform(0.5, 1.0)
