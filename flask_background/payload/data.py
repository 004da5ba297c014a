"""The text form of a durable item's arguments, result and state; a value read back has the same types.

The text is JSON with the tags of Flask's session cookies, and a few more. Allowed values are None, bool, int,
float, str, Markup, bytes, UUID, Decimal, date and datetime, and lists, tuples and dicts of them with string
keys. A text never names code, so reading one imports nothing and runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from markupsafe import Markup
from werkzeug.datastructures import FileStorage, MultiDict

from flask_background.core.request_state import RequestState
from flask_background.errors import PayloadTooLargeError, SerializationError
from flask_background.payload.arguments import positional
from flask_background.payload.tagged_json import (
    PLAIN,
    Rebuild,
    Replace,
    Serializer,
    encode,
    may_have_upload,
    once,
)

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
    (FileStorage, "pass its content, or where it was saved"),
)
_SUPPORTED = (str, int, float, bytes, tuple, list, datetime, date, UUID, Decimal)


def dump(value: Any, what: str, *, max_bytes: int | None = None) -> str:
    """Return value as text. Raises SerializationError or PayloadTooLargeError; ``what`` names the value."""
    _check(what, value, uploads=False)
    return _fitting(_plain.dumps(value), what, max_bytes)


def load(text: str) -> Any:
    """Return the value of a text that ``dump`` made."""
    return _decode(text)


def dump_call(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    replace: Replace | None = None,
    max_bytes: int | None = None,
) -> str:
    """Return the arguments of a call of func as text.

    ``replace`` gets each upload once, and returns a reference, a dict of JSON values, to store in its place;
    without ``replace`` an upload is refused. ``replace`` is called only after all arguments have passed the
    check. Raises SerializationError, which names the argument, or PayloadTooLargeError, perhaps after
    ``replace`` was called.
    """
    uploads = replace is not None
    for index, value in enumerate(args):
        if (wrong := _find_wrong(value, uploads)) is not None:
            raise wrong.error(positional(func, index))
    for name, value in kwargs.items():
        if (wrong := _wrong_key(name)) is not None:
            raise wrong.error("the call")
        _check(name, value, uploads)
    if _all_plain(args) and _all_plain(kwargs.values()) and all(map(str.isidentifier, kwargs)):
        text = encode((args, kwargs))  # the usual call: no value and no name that looks like a tag
    else:
        serializer = _plain if replace is None else Serializer(replace=once(replace))
        text = serializer.dumps([list(args), dict(kwargs)])
    return _fitting(text, "the arguments", max_bytes)


def load_call(text: str, *, rebuild: Rebuild | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments from a call's text. ``rebuild`` turns each reference back into an upload.

    Without ``rebuild`` references stay dicts.
    """
    if rebuild is None or not may_have_upload(text):
        args, kwargs = _decode(text)
    else:
        args, kwargs = Serializer(rebuild=rebuild).loads(text)
    return tuple(args), kwargs


def dump_state(state: RequestState) -> str:
    """Return the state as text; its values are JSON already."""
    fields = state._asdict()
    fields["values"] = dict(state.values)
    return encode(fields)


def load_state(text: str) -> RequestState:
    """Return the frozen state from its text."""
    fields = json.loads(text)
    # The default is for journals from before traceparent was added.
    return RequestState(**{"traceparent": None, **fields, "values": MappingProxyType(fields["values"])})


class _Wrong(NamedTuple):
    """The part of a value that is not data: its place in the value, a description, and the cure."""

    what: str
    cure: str
    place: str = ""

    def inside(self, step: str) -> _Wrong:
        return self._replace(place=step + self.place)

    def error(self, name: str) -> SerializationError:
        return SerializationError(f"{name}{self.place} {self.what}, and cannot be kept as data: {self.cure}")


def _check(name: str, value: Any, uploads: bool) -> None:
    if (wrong := _find_wrong(value, uploads)) is not None:
        raise wrong.error(name)


def _find_wrong(value: Any, uploads: bool, depth: int = 0) -> _Wrong | None:
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
        return _Wrong("is a number of more than 640 digits", "pass it as hexadecimal text")
    if kind is datetime:
        return _wrong_zone(value)
    if kind is list or kind is tuple or kind is dict:
        if depth == DEEPEST:
            return _Wrong(
                f"is nested deeper than {DEEPEST} levels, or contains itself", "pass flatter values"
            )
        return _wrong_member(value, uploads, depth + 1)
    if uploads and issubclass(kind, FileStorage):
        return None
    return _Wrong(f"is of the type {_name(kind)}", _cure(kind))


def _wrong_member(value: Any, uploads: bool, depth: int) -> _Wrong | None:
    if type(value) is dict:
        for key, member in value.items():
            if (wrong := _wrong_key(key)) is not None:
                return wrong
            if (wrong := _find_wrong(member, uploads, depth)) is not None:
                return wrong.inside(f"[{_shown(key)}]")
    else:
        for index, member in enumerate(value):
            if (wrong := _find_wrong(member, uploads, depth)) is not None:
                return wrong.inside(f"[{index}]")
    return None


def _wrong_key(key: object) -> _Wrong | None:
    if type(key) is not str:
        return _Wrong(f"has the key {_shown(key)} of the type {_name(type(key))}", "use strings as keys")
    if not key.isascii() and _wrong_text(key):
        return _Wrong(f"has the key {_shown(key)} with a pair of surrogates", "use well-formed text")
    return None


def _wrong_text(text: str) -> _Wrong | None:
    return _Wrong("is text with a pair of surrogates", "pass bytes") if _PAIR.search(text) else None


def _wrong_zone(moment: datetime) -> _Wrong | None:
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
    return _Wrong(
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


def _all_plain(values: Iterable[Any]) -> bool:
    return PLAIN.issuperset(map(type, values))


def _fitting(text: str, what: str, max_bytes: int | None) -> str:
    if max_bytes is not None and len(text) > max_bytes:  # the text is ASCII
        raise PayloadTooLargeError(
            f"{what} would take {len(text)} bytes, and BACKGROUND_MAX_PAYLOAD allows {max_bytes}: keep the"
            " data in a file or the database and pass its name or key, or allow more"
        )
    return text


_plain = Serializer()
# One decoder for all texts: ``json.loads`` would make one for each, which takes 3 µs.
_decode: Callable[[str], Any] = json.JSONDecoder(object_hook=_plain.untag).decode
