"""Pickles that come back from a child: data, and nothing that runs code where it is read."""

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
        [collections.deque(), collections.defaultdict(None, {1: 2}), complex(1, -0.0), uuid.SafeUUID.safe],
        datetime.datetime(
            2026, 10, 25, 2, 30, fold=1, tzinfo=datetime.timezone(datetime.timedelta(hours=1), "x")
        ),
        [set(), frozenset(), bytearray(), 2**5000, "x" * 70_000, b"y" * 70_000, *range(1500)],
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


# Makers that take no name of a class.
NAMELESS = (safe_pickle._make_slice, safe_pickle._make_fraction, safe_pickle._make_deque)


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
@pytest.mark.parametrize("maker", [maker for maker in safe_pickle._MAKERS if maker not in NAMELESS])
def test_makers_find_nothing_else(maker: Any, value: Any) -> None:
    """They find classes of their kind in modules that are imported already."""
    arguments = {
        "_make_plain": (),
        "_make_error": ((), {}),
        "_find_member": ("x",),
        "_make_named_tuple": ((),),
    }
    with pytest.raises(pickle.UnpicklingError):
        maker((value.__module__, value.__qualname__), *arguments.get(maker.__name__, ({},)))
    assert "antigravity" not in sys.modules


class Listed(enum.Enum):
    """An enum whose members take values."""

    ONE = 1

    def append(self, value: object) -> None:
        ran.append(value)


@dataclass
class Bag:
    """A dataclass with methods that opcodes would call."""

    size: int = 0

    def append(self, value: object) -> None:
        ran.append(value)

    extend = add = append

    def __setitem__(self, key: object, value: object) -> None:
        ran.append(value)

    def __iter__(self) -> Any:
        ran.append(self)
        return iter(())

    __getitem__ = __len__ = __index__ = __html__ = __str__ = __iter__  # type: ignore[assignment]


def before_the_end(value: object, opcodes: bytes) -> bytes:
    """A pickle that does more after it has made the value."""
    return safe_pickle.dumps(value)[:-1] + opcodes + b"."


@pytest.mark.parametrize("value", [Colour.RED, Listed.ONE, Bag(), Order(1), Point(1, 2), ValueError(1)])
@pytest.mark.parametrize(
    "opcodes",
    [b"}\x8c\x07_value_\x8c\x05admin\x94sb", b"Na", b"(Ne", b"NNs", b"(NNu", b"(N\x90", b"h\x00Na", b"N\x81"],
    ids=["BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BINGET APPEND", "NEWOBJ"],
)
def test_made_values_are_not_changed(value: Any, opcodes: bytes) -> None:
    """A pickle sets no state, and adds to nothing but its own containers."""
    ran.clear()
    with pytest.raises(pickle.UnpicklingError, match="a pickle that is no data"):
        safe_pickle.loads(before_the_end(value, opcodes))
    assert not ran
    assert Colour.RED.value == "r"


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\nprint\n.",
        b"\x80\x05Nr\xff\xff\xff\xff.",
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.",
        b"\x80\x05",
        b"\x80\x05(N(e.",
        b"\x80\x05h\x00.",
        b"e.",
        b"",
    ],
)
def test_odd_pickles(pickled: bytes) -> None:
    """They are refused before the unpickler allocates memory for them."""
    with pytest.raises(pickle.UnpicklingError, match="a pickle that is no data"):
        safe_pickle.loads(pickled)


@pytest.mark.parametrize("kind", [tuple, list, bytes, bytearray, str, set, range, Markup, fractions.Fraction])
def test_types_are_not_called(kind: type) -> None:
    """No pickle of a few bytes becomes a list of millions, or has the parent compute."""
    with pytest.raises(pickle.UnpicklingError, match="is no data"):
        safe_pickle.loads(pickle.dumps(Calling(kind, 10**7)))


class Calling:
    """An object whose pickle calls a type."""

    def __init__(self, *called: Any) -> None:
        self.called = called

    def __reduce__(self) -> Any:
        return self.called[0], self.called[1:]


@pytest.mark.parametrize(
    "call",
    [
        lambda: safe_pickle._make_plain(("markupsafe", "Markup"), Bag()),
        lambda: safe_pickle._make_plain(("builtins", "range"), Bag()),
        lambda: safe_pickle._make_plain(("builtins", "complex"), range(3)),
        lambda: safe_pickle._make_plain(("builtins", "tuple"), 3),
        lambda: safe_pickle._make_fraction("1e999999999", 1),  # type: ignore[arg-type]
        lambda: safe_pickle._make_fraction(1, 0),
        lambda: safe_pickle._make_deque(range(9), None),  # type: ignore[arg-type]
        lambda: safe_pickle._make_deque([], Bag()),  # type: ignore[arg-type]
        lambda: safe_pickle._make_mapping(("collections", "Counter"), Bag()),  # type: ignore[arg-type]
        lambda: safe_pickle._make_mapping((__name__, "Bag"), {}),
        lambda: safe_pickle._make_defaultdict((__name__, "Bag"), {}),
        lambda: safe_pickle._make_named_tuple((__name__, "Point"), Bag()),  # type: ignore[arg-type]
        lambda: safe_pickle._make_error(("builtins", "OSError"), (1, "x", Bag()), {}),
        lambda: safe_pickle._make_error(("builtins", "ExceptionGroup"), ("x", Bag()), {}),
        lambda: safe_pickle._make_error(("builtins", "ValueError"), (), Bag()),  # type: ignore[arg-type]
        lambda: safe_pickle._find_kind(Bag(), object),  # type: ignore[arg-type]
    ],
)
def test_makers_take_plain_arguments(call: Any) -> None:
    """A value whose methods a built-in type would call is refused."""
    ran.clear()
    with pytest.raises(pickle.UnpicklingError, match="no data"):
        call()
    assert not ran


def test_module_with_code_for_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's function for missing names is not called."""
    module = types.ModuleType("lazy")
    module.__getattr__ = ran.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", module)
    ran.clear()
    with pytest.raises(pickle.UnpicklingError, match="is not known in this process"):
        safe_pickle._find_kind(("lazy", "Order"), object)
    assert not ran


@dataclass
class Watched:
    """A dataclass with a field that is set by its own code."""

    size: int

    @property
    def size(self) -> int:  # type: ignore[no-redef]
        return 1

    @size.setter
    def size(self, size: int) -> None:
        ran.append(size)


def test_field_that_runs_code() -> None:
    """A dataclass with such a field is refused on both sides."""
    value = Watched(1)
    ran.clear()
    with pytest.raises(TypeError, match="its field size is set by code of its own"):
        safe_pickle.dumps(value)
    with pytest.raises(pickle.UnpicklingError, match="no dataclass of plain fields"):
        safe_pickle._make_dataclass((__name__, "Watched"), {"size": 1})
    assert not ran


@pytest.mark.parametrize("opcodes", [b"}%bNs", b"\x8f(%b\x90", b"(%b\x91", b"%b"])
def test_deep_tuples(opcodes: bytes) -> None:
    """Tuples that are nested too deep to be hashed do not end this process: they are not even made."""
    nested = b")" + b"\x85" * 3_000_000
    with pytest.raises(pickle.UnpicklingError, match="nests more than 1000 tuples"):
        safe_pickle.loads(b"\x80\x05" + opcodes % nested + b".")
