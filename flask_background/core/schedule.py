"""The times of a periodic task and of an item that starts later. All times are ``time.time()``."""

from __future__ import annotations

import math
import re
from ast import literal_eval
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from flask_background.core.checks import LONGEST, at_most, is_duration, shown, wrong_option
from flask_background.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Every:
    """A schedule with a fixed interval in seconds, counted from the time at which it was first known."""

    seconds: float

    def __post_init__(self) -> None:
        if not is_duration(self.seconds) or self.seconds < 0.01:
            raise ConfigurationError(
                f"periodic(seconds={shown(self.seconds)}) is not usable: allowed is a number of seconds from"
                " 0.01"
            )
        if self.seconds > LONGEST:
            object.__setattr__(self, "seconds", LONGEST)

    def next_after(self, now: float) -> float:
        """Return the time of the next run, for a schedule that begins now or was due now."""
        return now + self.seconds

    def catch_up(self, planned: float, now: float) -> float:
        """Return the next time after now, in step with planned; missed times are left out.

        The run that was due at planned stands for all missed runs. If the clock was set back, so that planned
        lies far ahead, the result is again one of the next times in step.
        """
        steps = math.floor((now - planned) / self.seconds) + 1
        due = planned + steps * self.seconds
        return due if due > now else due + self.seconds  # a float may have been rounded


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression of five fields, in a time zone; needs the extra ``cron``.

    Daylight saving time follows Debian's cron. A run planned for an hour that is skipped in spring starts
    right after the gap. A run planned for an hour that comes twice in autumn starts the first time. If the
    minute or the hour begins with ``*``, elapsed time counts: no run in the gap, and runs in both hours.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        _zone(self)
        if not isinstance(self.expression, str) or len(self.expression.split()) != 5:
            raise _unusable(self, "not five fields")
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise ConfigurationError(
                f"the cron expression {self.expression!r} needs cronsim: pip install flask-background[cron]"
            ) from None
        try:
            next(CronSim(self.expression, datetime(2000, 1, 1)))
        except (CronSimError, ValueError) as error:
            raise _unusable(self, str(error)) from None
        except StopIteration:
            raise _unusable(self, "there is no such day") from None

    def next_after(self, now: float) -> float:
        """Return the first time after now that matches the expression."""
        from cronsim import CronSim

        moments = CronSim(self.expression, datetime.fromtimestamp(now, _zone(self)))
        # In the second pass of a repeated hour cronsim begins with the times of the first pass.
        return next(due for moment in moments if (due := moment.timestamp()) > now)

    def catch_up(self, planned: float, now: float) -> float:
        """Return the first time after now; the run that was due at planned stands for all missed runs."""
        return self.next_after(now)


Schedule = Every | Cron


def in_words(spec: str) -> str:
    """Return the text of a schedule for people, from its ``repr``; a text that is no such repr stays."""
    if found := re.fullmatch(r"Every\(seconds=([0-9.e+]{1,30})\)", spec):
        return _every(float(found[1]))
    try:
        if found := re.fullmatch(r"Cron\(expression=(.{2,200}), timezone=(.{2,200})\)", spec):
            expression, timezone = map(literal_eval, found.groups())
            return f"{expression} ({timezone})"
    except (ValueError, SyntaxError):
        pass
    return spec


def _every(seconds: float) -> str:
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            number = int(seconds // size)
            return f"every {unit}" if number == 1 else f"every {number:,} {unit}s"
    return f"every {seconds:,.6g} seconds"


def to_timestamp(delay: float | timedelta | None, run_at: datetime | None, now: float) -> float:
    """Return the time before which an item that is enqueued now may not start.

    The time is now, after delay or at run_at; a run_at in the past means now. Raises ConfigurationError for
    values that are not usable.
    """
    if run_at is not None:
        if delay is not None:
            raise wrong_option("run_at", run_at, "either run_at or delay, not both")
        if not _is_moment(run_at):
            raise wrong_option(
                "run_at",
                run_at,
                "a datetime with a time zone, such as datetime.now(UTC) + timedelta(hours=1)",
            )
        return min(run_at.timestamp(), now + LONGEST)
    if delay is None:
        return now
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not is_duration(seconds):
        raise wrong_option("delay", delay, "a number of seconds from 0, or a timedelta")
    return now + at_most(seconds)


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, datetime) and value.utcoffset() is not None
    except (OverflowError, ValueError):  # where years end, not every zone knows its offset
        return False


def _zone(cron: Cron) -> tzinfo:
    if cron.timezone == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # as slow to import as the rest of this module

    try:
        return ZoneInfo(cron.timezone)  # zoneinfo caches the time zones that it has read
    except (KeyError, ValueError, TypeError, AttributeError, OSError):
        raise ConfigurationError(
            f"the time zone {cron.timezone!r} is unknown: allowed is a name such as"
            ' "Europe/Berlin"; on a machine without time zones, pip install tzdata'
        ) from None


def _unusable(cron: Cron, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the cron expression {cron.expression!r} is not usable, {why}: allowed are five fields, minute,"
        " hour, day of the month, month, weekday, such"
        ' as "30 4 * * MON-FRI"'
    )
