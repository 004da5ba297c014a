"""Texts, numbers and times as the pages show them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from markupsafe import Markup, escape

# Characters that draw nothing, or change how others are drawn: a name with one looks like another name.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e007f]"
)
_BREAKS = re.compile(r"\s*[\r\n\t]\s*")


def shown(text: object, limit: int = 200) -> str:
    """Return one line of text without hidden characters, cut after so many characters."""
    return _visible(_BREAKS.sub(" ", str(text)[: limit + 1]), limit)


def shown_lines(text: object, limit: int = 20_000) -> str:
    """Return lines of text without hidden characters; of a long text the middle is left out.

    The end of a traceback says what has happened.
    """
    whole = str(text).replace("\r\n", "\n")
    if len(whole) > limit:
        half = limit // 2
        left_out = f"{len(whole) - 2 * half:,}"
        whole = f"{whole[:half]}\n… {left_out} characters are left out …\n{whole[-half:]}"
    return _HIDDEN.sub(_escaped, whole)


def _visible(text: str, limit: int) -> str:
    cut = len(text) > limit
    return _HIDDEN.sub(_escaped, text[:limit]) + ("…" if cut else "")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "backslashreplace").decode()


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def count(value: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units."""
    if seconds is None:
        return "—"
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, smaller in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest and whole < 10 * size else "")
    return f"{whole} s"


def share(part: int, whole: int) -> str:
    """Return a share in percent; one that is not nothing is never shown as 0 %."""
    if not whole:
        return "—"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 10 and part else f"{percent:.0f} %"


def moment(at: datetime | None) -> Markup:
    """Return a time as HTML; the text is in UTC, and the script shows it in the visitor's own zone."""
    if at is None:
        return Markup("—")
    utc = at.astimezone(UTC)
    exact = utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup(f'<time datetime="{exact}">{utc:%Y-%m-%d %H:%M:%S} UTC</time>')


def distance(at: datetime | None, now: datetime) -> str:
    """Return how far a time lies in the past or in the future."""
    if at is None:
        return "—"
    seconds = round((at - now).total_seconds())
    if seconds == 0:
        return "now"
    span = f"{abs(seconds)} s" if abs(seconds) < 60 else duration(abs(seconds))
    return f"in {span}" if seconds > 0 else f"{span} ago"


def bidi(text: str) -> Markup:
    """Return a text whose direction does not reach beyond it."""
    return Markup(f"<bdi>{escape(text)}</bdi>")


def pretty(value: Mapping[str, object]) -> str:
    """Return a dict as JSON over several lines."""
    return json.dumps(dict(value), indent=2, ensure_ascii=False, default=str)
