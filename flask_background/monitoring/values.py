"""Values for snapshots, from columns and records that may hold anything: none of these functions raises."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from flask_background.core.description import LONGEST
from flask_background.core.odd_errors import text_of
from flask_background.core.one_line import one_line
from flask_background.core.status import Progress
from flask_background.payload.outcomes import progress_of

#: How many characters an error has at most that is shown as one line.
LONGEST_ERROR = 500
EPOCH = datetime.fromtimestamp(0, UTC)


def line(text: object, longest: int = LONGEST) -> str:
    """Return the text of a value as one line that can be shown anywhere."""
    return one_line(text_of(text), longest)


def moment(at: float | None) -> datetime | None:
    """Return the time as an aware datetime; None also if there is no such time."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError, TypeError):
        return None


def between(start: Any, end: Any) -> float | None:
    """Return the seconds between two times, at least 0; None if one of them is None."""
    try:
        return None if start is None or end is None else max(0.0, float(end) - float(start))
    except (ValueError, TypeError):
        return None


def max_attempts(options: str) -> int:
    """Return how many runs an item may have, from its options."""
    try:
        return int(json.loads(options)["max_attempts"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 1


def progress_from(text: str | None) -> Progress | None:
    """Return the progress from its text."""
    try:
        return None if text is None else harmless(progress_of(text))
    except (ValueError, TypeError, RecursionError):
        return None


def harmless(progress: Progress) -> Progress | None:
    """Return the progress with finite numbers and one line of text; None if it has no such numbers."""
    try:
        done, total, message = progress
        whole = None if total is None else float(total)
        if not math.isfinite(float(done)):
            return None
        return Progress(
            float(done),
            whole if whole is not None and math.isfinite(whole) else None,
            None if message is None else line(message),
        )
    except Exception:
        return None
