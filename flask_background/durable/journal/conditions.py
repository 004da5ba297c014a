"""The conditions by which items are selected for lists, counts, and actions on many items."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import NamedTuple

from flask_background.payload.outcomes import error_line


class Conditions(NamedTuple):
    """Conditions that all have to hold; None: none. Times are ``time.time()``.

    ``task``: a name or a pattern such as "mail.*". ``text``: a part of the description or the error, in any
    case. ``since`` and ``until`` are about the enqueue time. ``ended_before``: the item has ended, and before
    this time.
    """

    task: str | None = None
    executor: str | None = None
    key: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None
    ended_before: float | None = None

    def names(self, task: str) -> bool:
        """Return whether a task fulfils the condition."""
        return self.task is None or task == self.task or fnmatchcase(task, self.task)

    def fit(self, task: str, executor: str, key: str | None, enqueued: float, finished: float | None) -> bool:
        """Return whether an item fulfils all conditions but that of the text."""
        return (
            self.names(task)
            and self.executor in (None, executor)
            and self.key in (None, key)
            and (self.since is None or enqueued >= self.since)
            and (self.until is None or enqueued <= self.until)
            and (self.ended_before is None or (finished is not None and finished < self.ended_before))
        )

    def clause(self) -> tuple[str, dict[str, object]]:
        """Return SQL for all conditions but that of the task, and its values; "" if there are none.

        A row that fulfils the clause has the text only if ``mentions`` says so.
        """
        values = {name: value for name, value in self._asdict().items() if value is not None}
        parts = [sql for name, sql in _SQL.items() if name in values]
        if self.text is not None and self.text.isascii():
            parts.append(
                "(instr(lower(description), :text) or instr(lower(reason), :text)"
                " or instr(lower(error), :escaped))"
            )
            values["text"] = self.text.lower()
            # In JSON there is no colon between the type and the message.
            part = max(self.text.split(":"), key=len).strip()
            values["escaped"] = json.dumps(part)[1:-1].lower()
        elif self.text is not None:  # SQLite knows no other letters, and errors are JSON
            parts.append("coalesce(description, reason, error) is not null")
        return " and ".join(parts), values

    def mentions(self, *parts: str | None) -> bool:
        """Return whether a part of an item has the text, in any case; True if no text is asked for."""
        if self.text is None:
            return True
        text = self.text.casefold()
        return any(part is not None and text in str(part).casefold() for part in parts)

    def mentioned(self, description: str | None, reason: str | None, error: str | None) -> bool:
        """Return whether an item with these columns mentions the text."""
        return self.mentions(description, reason, None if error is None else error_line(error))


_SQL = {
    "executor": "executor = :executor",
    "key": "key = :key",
    "since": "enqueued >= :since",
    "until": "enqueued <= :until",
    "ended_before": "finished < :ended_before",
}
