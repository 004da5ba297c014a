"""The filter of a list of items: in an address, in words, and as a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from flask_background.core.status import Status
from flask_background.dashboard.text import shown
from flask_background.monitoring.snapshots import ItemQuery

FIELDS = ("status", "task", "executor", "key", "text", "since", "until")


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter in an address. ``values``: the texts as given; ``errors``: a complaint for each bad one."""

    query: ItemQuery
    values: dict[str, str]
    errors: dict[str, str]

    @classmethod
    def read(cls, arguments: Mapping[str, str]) -> Filter:
        """Read the filter from the arguments of an address; other arguments are left alone."""
        values = {name: text for name in FIELDS if (text := _given(name, arguments))}
        errors: dict[str, str] = {}
        status = None
        if "status" in values:
            try:
                status = Status(values["status"])
            except ValueError:
                errors["status"] = "No item ever has this status."
        times = {name: _time(values[name]) for name in ("since", "until") if name in values}
        for name, time in times.items():
            if time is None:
                errors[name] = "Write a time such as 2030-12-31T23:59, in UTC."
        query = ItemQuery(
            status=status,
            task=values.get("task"),
            executor=values.get("executor"),
            key=values.get("key"),
            text=values.get("text"),
            since=times.get("since"),
            until=times.get("until"),
        )
        return cls(query, values, errors)

    def words(self, with_status: bool = True) -> str:
        """Return the filter as the end of a sentence that begins with "items"."""
        query, parts = self.query, []
        if query.status is not None and with_status:
            parts.append(f"with the status {query.status}")
        for name, of in (("task", "of the task"), ("executor", "on the executor"), ("key", "with the key")):
            if name in self.values:
                parts.append(f"{of} “{shown(self.values[name])}”")
        if query.text is not None:
            parts.append(f"with “{shown(query.text)}” in their description or error")
        if query.since is not None:
            parts.append(f"enqueued since {_utc(query.since)}")
        if query.until is not None:
            parts.append(f"enqueued until {_utc(query.until)}")
        return ", ".join(parts)


def _given(name: str, arguments: Mapping[str, str]) -> str:
    text = arguments.get(name, "")
    # Spaces can be part of a name or a key; elsewhere a phone's keyboard has added them.
    return text if name in ("task", "executor", "key") and text.strip() else text.strip()


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
