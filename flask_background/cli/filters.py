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


def as_span(context: click.Context, param: click.Parameter, text: str | None) -> timedelta | None:
    """Return a length of time, such as "90s", "5min", "2h", "7d" or "2w"; the callback of an option."""
    span = None if text is None else _span(text)
    if span is None and text is not None:
        raise click.BadParameter(f'{text!r} is no length of time: write for example "90s", "2h" or "7d"')
    return span


def as_moment(context: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """Return a time in UTC: so long ago, or in ISO 8601; the callback of an option.

    A time without an offset is the machine's local time.
    """
    if text is None:
        return None
    try:
        span = _span(text)
        at = datetime.fromisoformat(text) if span is None else datetime.now(UTC) - span
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'{text!r} is no time: write for example "2h" for two hours ago, or "2026-01-31T12:00"'
        ) from None


def _span(text: str) -> timedelta | None:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(s|min|m|h|d|w)", text)
    return found and timedelta(**{_UNITS[found[2]]: float(found[1])})


_OPTIONS = (
    click.option("--task", metavar="PATTERN", help='Only items of these tasks, as in "mail.*".'),
    click.option("--executor", metavar="NAME", help="Only items of this executor."),
    click.option("--key", help="Only items with this key."),
    click.option("--text", help="Only items whose description or error has this text, in any case."),
    click.option(
        "--since",
        callback=as_moment,
        metavar="TIME",
        help='Only items enqueued since then: "2h" ago, or a time in ISO 8601.',
    ),
    click.option("--until", callback=as_moment, metavar="TIME", help="Only items enqueued until then."),
)


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

        status = click.option(
            "--status", type=click.Choice([*map(str, statuses)]), help="Only items with this status."
        )
        for option in (*reversed(_OPTIONS), status):
            call = option(call)
        return call

    return decorate


def described(query: ItemQuery) -> str:
    """Return a query for a question, as in "status failed, task mail.*"."""
    parts = []
    for name in ("status", *_NAMES, "ended_before"):
        if (value := getattr(query, name)) is not None:
            shown = value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts) or "all"
