"""Values that come back from a child process: pickled as data, and read without running any of its code.

A pickle can name any function to be called where it is read. An item may have met a hostile file, and its
child must not reach into the web process. So values are plain data and the types named here; dataclasses,
named tuples, enums and exceptions travel as their names and fields. They are put together without a call of
theirs, and only from classes that this process has imported already. An exception to this: ``__hash__`` and
``__eq__`` of keys and of members of sets are called.

A pickle can call nothing but the makers at the end of this module, which check the types of their arguments.
Before it is read, ``check`` refuses it if it does anything else: if it sets the state of an object, or adds
to an object that is no list, dict or set of its own.
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
import types
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from flask_background.core.odd_errors import text_of
from flask_background.core.options import name_elsewhere
from flask_background.executors.processes.pickle_check import check

_Name = tuple[str, str]

# The types that a call with plain arguments makes, each with these arguments. Other built-in types have
# opcodes of their own.
_PLAIN: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    complex: lambda value: (value.real, value.imag),
    range: lambda value: (value.start, value.stop, value.step),
    zoneinfo.ZoneInfo: lambda value: (value.key,),
}
for _kind in (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone):
    _PLAIN[_kind] = lambda value: tuple(value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)[1])
_TEXTS: tuple[type, ...] = (
    *(decimal.Decimal, uuid.UUID, Markup),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath),
)
_PLAIN |= {kind: lambda value: (str(value),) for kind in _TEXTS}
# The types of these arguments, whose methods are Python's own.
_ARGUMENTS = {
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    datetime.timedelta,
    datetime.timezone,
    zoneinfo.ZoneInfo,
}
_FACTORIES: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset),
    *(collections.Counter, collections.OrderedDict, collections.deque),
)


def dumps(value: Any) -> bytes:
    """Return the value as bytes. Raises TypeError for a type that is not data, and errors of the value."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def loads(pickled: bytes | memoryview) -> Any:
    """Return the value of such bytes. Raises pickle.UnpicklingError, among others, for other bytes."""
    data = bytes(pickled)
    check(data)
    return _Unpickler(io.BytesIO(data)).load()


class _Pickler(pickle.Pickler):
    """Writes what ``_Unpickler`` reads, and refuses the rest."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.FunctionType and value in _MAKERS:
            return NotImplemented
        if kind in _PLAIN and not (kind is zoneinfo.ZoneInfo and value.key is None):
            return _make_plain, (_name_of(kind), *_PLAIN[kind](value))
        if kind is slice:
            return _make_slice, (value.start, value.stop, value.step)
        if kind is fractions.Fraction:
            return _make_fraction, (value.numerator, value.denominator)
        if kind is collections.deque:
            return _make_deque, (list(value), value.maxlen)
        if kind is collections.Counter or kind is collections.OrderedDict:
            return _make_mapping, (_name_of(kind), dict(value.items()))
        if kind is collections.defaultdict:
            return _make_defaultdict, (_factory_of(value), dict(value.items()))
        if isinstance(value, BaseException):
            return _make_error, (_name_of(kind), *_parts_of(value))
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return _find_member, (_name_of(kind), value.name)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return _make_named_tuple, (_name_of(kind), tuple(value))
        if dataclasses.is_dataclass(kind):
            if odd := _descriptor_in(kind):
                raise TypeError(
                    f"{'.'.join(_name_of(kind))} is no data: its field {odd} is set by code of its own"
                )
            names = [field.name for field in dataclasses.fields(kind) if hasattr(value, field.name)]
            return _make_dataclass, (_name_of(kind), {name: getattr(value, name) for name in names})
        raise _no_data(kind)


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what is safe to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (found := _READABLE.get((module, name))) is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return found


def _no_data(kind: Any) -> TypeError:
    name = ".".join(_name_of(kind))
    return TypeError(f"{name} is no data: return plain values, dataclasses, or where the result was saved")


def _factory_of(value: collections.defaultdict[Any, Any]) -> _Name | None:
    factory = value.default_factory
    if factory is None:
        return None
    if factory not in _FACTORIES:
        raise _no_data(factory)
    return _name_of(factory)


def _descriptor_in(kind: type) -> str | None:
    """Return a field of the dataclass that a property, or another descriptor of the app, would set."""
    for field in dataclasses.fields(kind):
        found = _class_attribute(kind, field.name)
        if hasattr(type(found), "__set__") and not isinstance(found, types.MemberDescriptorType):
            return field.name
    return None


def _class_attribute(kind: type, name: str) -> Any:
    return next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)


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


def _require(is_plain: bool) -> None:
    if not is_plain:
        raise pickle.UnpicklingError("arguments of another type are no data")


def _require_name(name: _Name) -> None:
    _require(type(name) is tuple and [*map(type, name)] == [str, str])


def _named(name: _Name, *kinds: type) -> Any:
    """Return the one of these types that has this name."""
    _require_name(name)
    for kind in kinds:
        if _name_of(kind) == name:
            return kind
    raise pickle.UnpicklingError(f"{'.'.join(name)} is no data")


def _find_kind(name: _Name, parent: type) -> type:
    """Return a class that this process has imported: nothing is imported for a message."""
    _require_name(name)
    in_script = name[0] == name_elsewhere("__main__")  # a child imports the module that runs here as a script
    found: Any = sys.modules.get(name[0])
    if found is None and in_script:
        found = sys.modules["__main__"]
    for step in name[1].split("."):
        found = _attributes_of(found).get(step)
    if not issubclass(type(found), type) or not issubclass(found, parent):
        raise pickle.UnpicklingError(
            f"{'.'.join(name)} is not known in this process: define it at the top of a module that the app"
            " imports"
        )
    kind: type = found
    return kind


def _attributes_of(found: Any) -> Mapping[str, Any]:
    """Return what a module or class holds itself: ``getattr`` and ``vars`` may run code of theirs."""
    for kind in (types.ModuleType, type):
        if issubclass(type(found), kind):
            attributes: Mapping[str, Any] = vars(kind)["__dict__"].__get__(found)
            return attributes
    return {}


def _make_plain(name: _Name, *args: Any) -> Any:
    _require(all(type(arg) in _ARGUMENTS for arg in args))
    return _named(name, *_PLAIN)(*args)


def _make_slice(start: Any, stop: Any, step: Any) -> slice:
    return slice(start, stop, step)


def _make_fraction(numerator: int, denominator: int) -> fractions.Fraction:
    """Return a fraction without reducing it, which takes minutes for numbers of millions of digits."""
    _require(type(numerator) is type(denominator) is int and denominator > 0)
    made = object.__new__(fractions.Fraction)
    object.__setattr__(made, "_numerator", numerator)
    object.__setattr__(made, "_denominator", denominator)
    return made


def _make_deque(values: list[Any], maxlen: int | None) -> collections.deque[Any]:
    _require(type(values) is list and (maxlen is None or type(maxlen) is int))
    return collections.deque(values, maxlen)


def _make_mapping(name: _Name, values: dict[Any, Any]) -> Any:
    _require(type(values) is dict)
    return _named(name, collections.Counter, collections.OrderedDict)(values)


def _make_defaultdict(factory: _Name | None, values: dict[Any, Any]) -> collections.defaultdict[Any, Any]:
    _require(type(values) is dict)
    return collections.defaultdict(None if factory is None else _named(factory, *_FACTORIES), values)


def _make_error(name: _Name, args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """Return an exception, made by the built-in class that it descends from."""
    kind = _find_kind(name, BaseException)
    _require(type(args) is tuple and type(attributes) is dict)
    if issubclass(kind, (OSError, SyntaxError, UnicodeError, BaseExceptionGroup)):  # these look into them
        _require(all(type(arg) in {*_ARGUMENTS, bytearray, list, tuple} for arg in args))
    base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)  # type: ignore[misc]
    vars(BaseException)["__dict__"].__get__(error).update(attributes)
    return error


def _find_member(name: _Name, member: str) -> enum.Enum:
    kind = _find_kind(name, enum.Enum)
    _require(type(member) is str)
    found = kind.__dict__["_member_map_"][member]
    assert isinstance(found, enum.Enum)
    return found


def _make_named_tuple(name: _Name, values: tuple[Any, ...]) -> Any:
    _require(type(values) is tuple)
    return tuple.__new__(_find_kind(name, tuple), values)


def _make_dataclass(name: _Name, values: dict[str, Any]) -> Any:
    kind = _find_kind(name, object)
    _require(type(values) is dict)
    if not dataclasses.is_dataclass(kind) or _descriptor_in(kind):
        raise pickle.UnpicklingError(f"{'.'.join(name)} is no dataclass of plain fields in this process")
    known = {field.name for field in dataclasses.fields(kind)}
    made = object.__new__(kind)
    for field, value in values.items():
        if type(field) is str and field in known:
            object.__setattr__(made, field, value)
    return made


_MAKERS: tuple[Callable[..., Any], ...] = (
    *(_make_error, _find_member, _make_named_tuple, _make_dataclass, _make_plain, _make_slice),
    *(_make_fraction, _make_deque, _make_mapping, _make_defaultdict),
)
_READABLE: dict[_Name, Any] = {_name_of(one): one for one in _MAKERS}
"""What a pickle may call."""
