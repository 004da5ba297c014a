"""What comes back from a child: data, and nothing that runs code where it is read."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import http
import os
import pathlib
import pickle
import sys
import types
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from markupsafe import Markup

from flask_background.errors import ItemCancelledError, QueueFull
from flask_background.executors.processes import safe_pickle

ran: list[object] = []


@dataclass
class Order:
    """A dataclass that notices when its own code runs."""

    number: int
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ran.append(self)

    def __setstate__(self, state: object) -> None:
        ran.append(self)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A dataclass without a ``__dict__``."""

    at: datetime.date


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Colour(enum.Enum):
    """An enum."""

    RED = "r"


class Refused(Exception):
    """An exception that is not made anew from its arguments."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.where = where
        ran.append(self)

    def __reduce__(self) -> Any:
        return os.getcwd, ()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2.5, True, "x", b"y", bytearray(b"z"), 1j],
        {"a": (1, {2}), 3: frozenset("q")},
        datetime.datetime(2026, 1, 2, 3, 4, tzinfo=zoneinfo.ZoneInfo("Europe/Vienna")),
        [datetime.date(2026, 1, 2), datetime.time(3), datetime.timedelta(4), datetime.UTC],
        [decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=7), Markup("<b>")],
        [collections.Counter("aab"), collections.OrderedDict(a=1), collections.deque([1], 3)],
        collections.defaultdict(list, a=[1]),
        [pathlib.Path("/tmp"), range(3), slice(1, 2)],
        Order(1, ["x"]),
        {"deep": [Frozen(datetime.date(2026, 1, 2)), Point(1, 2), Colour.RED, http.HTTPStatus.OK]},
    ],
)
def test_data_comes_back(value: Any) -> None:
    """Plain data, the standard library's values, and the app's dataclasses, named tuples and enums."""
    ran.clear()
    back = safe_pickle.loads(safe_pickle.dumps(value))
    assert back == value
    assert type(back) is type(value)
    assert not ran


def error_with_note() -> Exception:
    """An error with a note."""
    error = KeyError("lost")
    error.add_note("where the keys are")
    return error


@pytest.mark.parametrize(
    "error",
    [
        error_with_note(),
        OSError(2, "No such file", "x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        SystemExit(3),
        ExceptionGroup("both", [ValueError(1), Refused(4, where="here")]),
        Refused(5, where="there"),
        ItemCancelledError("cancelled"),
        QueueFull("full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_come_back(error: BaseException) -> None:
    """An exception is of its own type, with its text and attributes; its own code makes neither."""
    ran.clear()
    back = safe_pickle.loads(safe_pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.args if not isinstance(error, ExceptionGroup) else ()) == (
        str(error),
        error.args if not isinstance(error, ExceptionGroup) else (),
    )
    assert {name: value for name, value in vars(back).items() if name != "response"} == {
        name: value for name, value in vars(error).items() if name != "response"
    }
    assert not ran


def test_exception_with_what_is_no_data() -> None:
    """Attributes that are no data stay behind, and arguments become their text."""
    error = ValueError("bad", object)
    error.lock = open  # type: ignore[attr-defined]
    back = safe_pickle.loads(safe_pickle.dumps(error))
    assert back.args == ("bad", "<class 'object'>")
    assert not hasattr(back, "lock")


class Evil:
    """Runs code where it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 3",)


class EvilList(list[Any]):
    """A list that does so."""

    __reduce__ = Evil.__reduce__


@pytest.mark.parametrize(
    "value", [Evil(), [Evil()], {"a": Evil()}, EvilList(), print, os, Evil, lambda: 1, object()]
)
def test_other_values_are_refused_where_they_are_sent(value: Any) -> None:
    """The error names the type."""
    with pytest.raises(TypeError, match="is no data: return plain values"):
        safe_pickle.dumps(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [Evil(), [Evil()], EvilList(), Order(1), Refused(1, where=""), print, eval])
def test_other_pickles_are_refused_where_they_are_read(value: Any, protocol: int) -> None:
    """Whatever has been written into the pipe, nothing of it is imported or called."""
    ran.clear()
    with pytest.raises(pickle.UnpicklingError, match="is no data"):
        safe_pickle.loads(pickle.dumps(value, protocol))
    assert not ran


@pytest.mark.parametrize(
    "value",
    [
        types.SimpleNamespace(__module__="antigravity", __qualname__="Order"),
        types.SimpleNamespace(__module__="os", __qualname__="system"),
        types.SimpleNamespace(__module__="os", __qualname__="path.join"),
        types.SimpleNamespace(__module__=__name__, __qualname__="Order.__init__.__globals__"),
        types.SimpleNamespace(__module__=__name__, __qualname__="Evil"),
    ],
    ids=lambda value: value.__qualname__,
)
@pytest.mark.parametrize("maker", safe_pickle._MAKERS)
def test_makers_find_nothing_else(maker: Any, value: Any) -> None:
    """They find classes of their kind in modules that are imported already."""
    arguments = {"_make_error": ((), {}), "_find_member": ("x",), "_make_named_tuple": ((),)}
    with pytest.raises(pickle.UnpicklingError):
        maker((value.__module__, value.__qualname__), *arguments.get(maker.__name__, ({},)))
    assert "antigravity" not in sys.modules
