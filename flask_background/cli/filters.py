"""The options that select items, and the times that people write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import click

from flask_background.core.status import Status
from flask_background.monitoring.snapshots import ItemQuery

_UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAMES = ("task", "executor", "key", "text", "since", "until")


class Span(click.ParamType[Any]):
    """A length of time, such as "90s", "5min", "2h", "7d" or "2w"."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the time as a timedelta."""
        found = value if isinstance(value, timedelta) else _span(value)
        if found is None:
            self.fail(
                f'{value!r} is no length of time: write for example "90s", "5min", "2h" or "7d"', param, ctx
            )
        return found


class Moment(click.ParamType[Any]):
    """A time, in ISO 8601, or so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC. A time without an offset is the machine's local time."""
        if isinstance(value, datetime):
            return value
        try:
            ago = _span(value)
            at = datetime.now(UTC) - ago if ago is not None else datetime.fromisoformat(value)
            return at.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f'{value!r} is no time: write for example "2h" for two hours ago, or "2026-01-31T12:00"',
                param,
                ctx,
            )


def _span(text: str) -> timedelta | None:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(s|min|m|h|d|w)", text)
    return found and timedelta(**{_UNITS[found[2]]: float(found[1])})


def selects(statuses: Sequence[Status]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command options which select items, as its argument ``query``.

    ``query`` is None if none of the options is given. ``statuses``: those that can be selected.
    """

    def decorate(func: Callable[..., None]) -> Callable[..., None]:
        @wraps(func)
        def call(*args: Any, status: str | None, **options: Any) -> None:
            values = {name: options.pop(name) for name in _NAMES}
            values["status"] = None if status is None else Status(status)
            is_given = any(value is not None for value in values.values())
            func(*args, query=ItemQuery(**values) if is_given else None, **options)

        for option in reversed(
            (
                click.option(
                    "--status", type=click.Choice([*map(str, statuses)]), help="Only items with this status."
                ),
                click.option("--task", metavar="PATTERN", help='Only items of these tasks, as in "mail.*".'),
                click.option("--executor", metavar="NAME", help="Only items of this executor."),
                click.option("--key", help="Only items with this key."),
                click.option(
                    "--text", help="Only items whose description or error has this text, in any case."
                ),
                click.option("--since", type=Moment(), help='Only items enqueued since, such as "2h" ago.'),
                click.option("--until", type=Moment(), help="Only items enqueued until then."),
            )
        ):
            call = option(call)
        return call

    return decorate


def described(query: ItemQuery) -> str:
    """Return a query for a question, as in "status failed, task mail.*"."""
    parts = [
        f"{name} {value.isoformat(timespec='seconds') if isinstance(value, datetime) else value}"
        for name in ("status", *_NAMES)
        if (value := getattr(query, name)) is not None
    ]
    return ", ".join(parts) or "all"
