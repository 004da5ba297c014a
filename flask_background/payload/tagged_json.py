"""The tagged JSON of Flask's session cookies, with more tags, and independent of the app.

Flask's serializer encodes through the current app's JSON provider, which may be any, and which sorts keys.
These texts outlive the process that wrote them, and are read without an app, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from flask.json.tag import (
    JSONTag,
    PassDict,
    PassList,
    TagBytes,
    TagDict,
    TaggedJSONSerializer,
    TagMarkup,
    TagTuple,
    TagUUID,
)
from werkzeug.datastructures import FileStorage

Replace = Callable[[FileStorage], dict[str, Any]]
Rebuild = Callable[[dict[str, Any]], Any]

#: The types that JSON has itself.
PLAIN = frozenset({str, int, float, bool, type(None)})

#: Plain JSON, without a check of what is encoded.
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class _TagDatetime(JSONTag):
    """A datetime with microseconds and time zone, unlike Flask's tag."""

    __slots__ = ()
    key = " dt"

    def check(self, value: Any) -> bool:
        return isinstance(value, datetime)

    def to_json(self, value: Any) -> Any:
        if type(value.tzinfo) is ZoneInfo:
            return [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo.key]
        return [value.isoformat(), value.fold, None]

    def to_python(self, value: Any) -> Any:
        text, fold, key = value
        moment = datetime.fromisoformat(text)
        return moment.replace(fold=fold, tzinfo=moment.tzinfo if key is None else ZoneInfo(key))


class _TagDate(JSONTag):
    __slots__ = ()
    key = " da"

    def check(self, value: Any) -> bool:
        return isinstance(value, date)

    def to_json(self, value: Any) -> Any:
        return value.isoformat()

    def to_python(self, value: Any) -> Any:
        return date.fromisoformat(value)


class _TagDecimal(JSONTag):
    __slots__ = ()
    key = " de"

    def check(self, value: Any) -> bool:
        return isinstance(value, Decimal)

    def to_json(self, value: Any) -> Any:
        return str(value)

    def to_python(self, value: Any) -> Any:
        return Decimal(value)


class _TagUpload(JSONTag):
    __slots__ = ()
    key = " up"
    serializer: Serializer

    def check(self, value: Any) -> bool:
        return isinstance(value, FileStorage)

    def to_json(self, value: Any) -> Any:
        assert self.serializer.replace is not None
        return self.serializer.tag(self.serializer.replace(value))

    def to_python(self, value: Any) -> Any:
        return value if self.serializer.rebuild is None else self.serializer.rebuild(value)


def may_have_upload(text: str) -> bool:
    """Return whether a text may contain a reference to an upload, without parsing the text."""
    return f'"{_TagUpload.key}"' in text


class Serializer(TaggedJSONSerializer):
    """Writes and reads tagged JSON.

    ``replace`` gets each upload and returns a dict of JSON values to write for it; ``rebuild`` gets that dict
    and returns an upload. Without ``rebuild`` the dict is returned.
    """

    __slots__ = ("rebuild", "replace")
    default_tags = [  # noqa: RUF012
        TagDict,
        PassDict,
        TagTuple,
        PassList,
        TagBytes,
        _TagUpload,  # before TagMarkup, which would ask the upload's file for an attribute
        TagMarkup,
        TagUUID,
        _TagDatetime,
        _TagDate,
        _TagDecimal,
    ]

    def __init__(self, *, replace: Replace | None = None, rebuild: Rebuild | None = None) -> None:
        super().__init__()
        self.replace = replace
        self.rebuild = rebuild

    def tag(self, value: Any) -> Any:
        return value if type(value) in PLAIN else super().tag(value)

    def dumps(self, value: Any) -> str:
        return encode(self.tag(value))

    def loads(self, value: str) -> Any:
        return json.loads(value, object_hook=self.untag)


def once(replace: Replace) -> Replace:
    """Wrap replace so that an upload passed twice is replaced once: its file can be read only once."""
    known: dict[int, dict[str, Any]] = {}

    def replace_once(upload: FileStorage) -> dict[str, Any]:
        if id(upload) not in known:
            known[id(upload)] = replace(upload)
        return known[id(upload)]

    return replace_once
