"""The check of values that are kept as text: which are data, and what to pass in place of the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from os import PathLike
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from markupsafe import Markup
from werkzeug.datastructures import FileStorage, MultiDict

from flask_background.core.item import WorkItem
from flask_background.errors import SerializationError

#: Deeper values are refused, so that every process can read what one process has written, however deep its
#: own call stack is.
DEEPEST = 64

_NEED_NO_LOOK = frozenset({float, bool, type(None), bytes, UUID, Decimal, date})
# The smallest limit on the digits of an int that a Python process can have.
_LARGEST = 10**640
# JSON writes a pair of surrogates as two escapes, and reads them as one character.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

_CURES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Enum, "pass its value"),
    (MultiDict, "pass a plain dict, such as its to_dict(flat=False)"),
    (Mapping, "pass a plain dict"),
    ((set, frozenset), "pass a list"),
    ((bytearray, memoryview), "pass bytes"),
    (timedelta, "pass its total_seconds()"),
    (time, "pass its isoformat()"),
    (PathLike, "pass its str()"),
    (WorkItem, "pass its id, and find the item by background.get(id)"),
    (FileStorage, "pass its content, or where it was saved"),
)
_SUPPORTED = (str, int, float, bytes, tuple, list, datetime, date, UUID, Decimal)


class Wrong(NamedTuple):
    """The part of a value that is not data: its place in the value, a description, and the cure."""

    what: str
    cure: str
    place: str = ""

    def inside(self, step: str) -> Wrong:
        """Return the same part, as seen from a container that has it at this step, such as "[0]"."""
        return self._replace(place=step + self.place)

    def error(self, name: str) -> SerializationError:
        """Return the error for the value of this name."""
        return SerializationError(f"{name}{self.place} {self.what}, and cannot be kept as data: {self.cure}")


def check(name: str, value: Any, uploads: bool) -> None:
    """Raise SerializationError if value is not data. ``uploads``: uploads are allowed in it."""
    if (wrong := find_wrong(value, uploads)) is not None:
        raise wrong.error(name)


def find_wrong(value: Any, uploads: bool, depth: int = 0) -> Wrong | None:
    """Return the first part of value that text cannot represent exactly, or None.

    Types are compared by identity, never by isinstance.
    """
    kind = type(value)
    if kind is str or kind is Markup:
        return None if value.isascii() else _wrong_text(value)
    if kind in _NEED_NO_LOOK:
        return None
    if kind is int:
        if -_LARGEST < value < _LARGEST:
            return None
        return Wrong("is a number of more than 640 digits", "pass it as hexadecimal text")
    if kind is datetime:
        return _wrong_zone(value)
    if kind is list or kind is tuple or kind is dict:
        if depth == DEEPEST:
            return Wrong(f"is nested deeper than {DEEPEST} levels, or contains itself", "pass flatter values")
        return _wrong_member(value, uploads, depth + 1)
    if uploads and issubclass(kind, FileStorage):
        return None
    return Wrong(f"is of the type {_name(kind)}", _cure(kind))


def _wrong_member(value: Any, uploads: bool, depth: int) -> Wrong | None:
    if type(value) is dict:
        for key, member in value.items():
            if (wrong := wrong_key(key)) is not None:
                return wrong
            if (wrong := find_wrong(member, uploads, depth)) is not None:
                return wrong.inside(f"[{_shown(key)}]")
    else:
        for index, member in enumerate(value):
            if (wrong := find_wrong(member, uploads, depth)) is not None:
                return wrong.inside(f"[{index}]")
    return None


def wrong_key(key: object) -> Wrong | None:
    """Return what is wrong with the key of a dict, or None."""
    if type(key) is not str:
        return Wrong(f"has the key {_shown(key)} of the type {_name(type(key))}", "use strings as keys")
    if not key.isascii() and _wrong_text(key):
        return Wrong(f"has the key {_shown(key)} with a pair of surrogates", "use well-formed text")
    return None


def _wrong_text(text: str) -> Wrong | None:
    return Wrong("is text with a pair of surrogates", "pass bytes") if _PAIR.search(text) else None


def _wrong_zone(moment: datetime) -> Wrong | None:
    zone = moment.tzinfo
    if zone is None:
        return None
    if type(zone) is timezone and zone.tzname(None) == timezone(zone.utcoffset(None)).tzname(None):
        return None
    if type(zone) is ZoneInfo:
        try:
            ZoneInfo(zone.key)
        except Exception:  # the zone was made from a file, or its key is unusual
            pass
        else:
            return None
    return Wrong(
        f"is a datetime in the zone {_shown(zone)}", "use datetime.timezone.utc or zoneinfo.ZoneInfo"
    )


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a broken text of the value must not replace the error to raise
        return "?"
    return text if len(text) <= 80 else text[:77] + "..."


def _cure(kind: type) -> str:
    for parents, cure in _CURES:
        if issubclass(kind, parents):
            return cure
    for parent in _SUPPORTED:
        if issubclass(kind, parent):
            return f"pass a plain {parent.__name__}"
    if hasattr(kind, "_sa_class_manager"):
        return "pass its primary key, and load it in the item"
    if is_dataclass(kind):
        return "pass its dataclasses.asdict()"
    return "pass strings, numbers, lists and dicts, and make the object in the item"
