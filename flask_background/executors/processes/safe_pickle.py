"""Values that come back from a child process: pickled as data, and read without running any of its code.

A pickle can name any function to be called where it is read. An item may have met a hostile file, and its
child must not reach into the web process. So values are plain data and the types named here; dataclasses,
named tuples, enums and exceptions travel as their names and fields. They are put together without a call of
theirs, and only from classes that this process has imported already.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import pathlib
import pickle
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from flask_background.core.odd_errors import text_of
from flask_background.core.options import name_elsewhere

_TYPES: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, uuid.SafeUUID, zoneinfo.ZoneInfo, Markup),
    *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath),
)
_Name = tuple[str, str]


def dumps(value: Any) -> bytes:
    """Return the value as bytes. Raises TypeError for a type that is not data, and errors of the value."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def loads(pickled: bytes | memoryview) -> Any:
    """Return the value of such bytes. Raises pickle.UnpicklingError, among others, for other bytes."""
    return _Unpickler(io.BytesIO(pickled)).load()


class _Pickler(pickle.Pickler):
    """Writes what ``_Unpickler`` reads, and refuses the rest."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is zoneinfo.ZoneInfo and value.key is not None:
            return zoneinfo.ZoneInfo, (value.key,)
        if kind in _TYPES or _name_of(value) in _READABLE:
            return NotImplemented
        if isinstance(value, BaseException):
            return _make_error, (_name_of(kind), *_parts_of(value))
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return _find_member, (_name_of(kind), value.name)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return _make_named_tuple, (_name_of(kind), tuple(value))
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind) if hasattr(value, field.name)]
            return _make_dataclass, (_name_of(kind), {name: getattr(value, name) for name in names})
        module, name = _name_of(kind)
        raise TypeError(
            f"{module}.{name} is no data: return plain values, dataclasses, or where the result was saved"
        )


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what is safe to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (found := _READABLE.get((module, name))) is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return found


def _name_of(value: Any) -> _Name:
    return str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))


def _parts_of(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an exception's arguments and attributes: those that are not data as text, or not at all."""
    args = error.args
    if isinstance(error, OSError) and len(args) == 2 and error.filename is not None:
        args = (*args, error.filename, None, error.filename2)
    args = tuple(arg if _is_data(arg) else text_of(arg) for arg in args)
    return args, {name: value for name, value in vars(error).items() if _is_data(value)}


def _is_data(value: Any) -> bool:
    if type(value) in (str, int, float, bool, type(None)):
        return True
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _find_kind(name: _Name, parent: type) -> type:
    """Return a class that this process has imported: nothing is imported for a message."""
    in_script = name[0] == name_elsewhere("__main__")  # a child imports the module that runs here as a script
    found: Any = sys.modules.get(name[0]) or (sys.modules["__main__"] if in_script else None)
    for step in name[1].split("."):
        found = vars(found).get(step) if isinstance(found, type) else getattr(found, step, None)
    if not isinstance(found, type) or not issubclass(found, parent):
        raise pickle.UnpicklingError(
            f"{'.'.join(name)} is not known in this process: define it at the top of a module that the app"
            " imports"
        )
    return found


def _make_error(name: _Name, args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """Return an exception, made by the built-in class that it descends from."""
    kind = _find_kind(name, BaseException)
    base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)  # type: ignore[misc]
    vars(error).update(attributes)
    return error


def _find_member(name: _Name, member: str) -> enum.Enum:
    kind = _find_kind(name, enum.Enum)
    found = kind.__dict__["_member_map_"][member]
    assert isinstance(found, enum.Enum)
    return found


def _make_named_tuple(name: _Name, values: tuple[Any, ...]) -> Any:
    return tuple.__new__(_find_kind(name, tuple), values)


def _make_dataclass(name: _Name, values: dict[str, Any]) -> Any:
    kind = _find_kind(name, object)
    if not dataclasses.is_dataclass(kind):
        raise pickle.UnpicklingError(f"{'.'.join(name)} is no dataclass in this process")
    known = {field.name for field in dataclasses.fields(kind)}
    made = object.__new__(kind)
    for field, value in values.items():
        if field in known:
            object.__setattr__(made, field, value)
    return made


_MAKERS: tuple[Callable[..., Any], ...] = (_make_error, _find_member, _make_named_tuple, _make_dataclass)
_READABLE: dict[_Name, Any] = {_name_of(one): one for one in (*_TYPES, *_MAKERS)}
