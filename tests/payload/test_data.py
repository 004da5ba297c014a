"""Data: a durable item's values come back equal and of the same types, or are refused by name."""

from __future__ import annotations

import enum
import io
import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from markupsafe import Markup
from werkzeug.datastructures import FileStorage, Headers, ImmutableMultiDict

from flask_background import RequestState
from flask_background.errors import PayloadTooLargeError, SerializationError
from flask_background.payload.data import dump, dump_call, dump_state, load, load_call, load_state
from flask_background.payload.data_check import DEEPEST
from flask_background.payload.tagged_json import Serializer

from ..helpers import make_item
from ..properties import given, st


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in every respect: types, order, signs of zero, zones, folds."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    if isinstance(one, datetime):
        zones = (repr(one.tzinfo), one.fold, one.tzname()), (repr(other.tzinfo), other.fold, other.tzname())
        return zones[0] == zones[1] and bool(one.replace(tzinfo=None) == other.replace(tzinfo=None))
    return bool(one == other)


def photo_task(photo: object, size: int = 0, *rest: object, **more: object) -> None:
    """Some task."""


class Color(enum.StrEnum):
    """An enum whose members are strings, too."""

    RED = "red"


class Number(enum.IntEnum):
    """An enum whose members are numbers, too."""

    ONE = 1


class Name(str):
    """A string, nearly."""

    __slots__ = ()


@dataclass
class Order:
    """Some dataclass."""

    number: int


class Record:
    """Something that SQLAlchemy maps."""

    _sa_class_manager = None


class Secret(dict[str, str]):
    """A dict, nearly."""


class NoRepr:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError


Point = namedtuple("Point", "x y")
ZONES = [
    None,
    UTC,
    timezone(timedelta(hours=5, minutes=30)),
    timezone(timedelta(seconds=-3601, microseconds=7)),
]
TAGS = sorted(Serializer().tags)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**600), 10**600),
    st.floats(),
    st.text(st.characters(min_codepoint=0xDC00, max_codepoint=0xDFFF)),  # as in names that are not UTF-8
    st.text(),
    st.text().map(Markup),
    st.binary(),
    st.uuids(),
    st.dates(),
    st.decimals(allow_nan=True),
    st.datetimes(timezones=st.sampled_from(ZONES)),
    st.datetimes(timezones=st.timezones(no_cache=False), allow_imaginary=True),
)
keys = st.one_of(st.text(), st.sampled_from(TAGS), st.sampled_from([tag + "__" for tag in TAGS]))


def nested(members: Any, names: Any) -> Any:
    """Containers of these, and containers of those."""
    return st.recursive(
        members,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(names, inner, max_size=3),
            st.tuples(names, inner).map(lambda pair: {pair[0]: pair[1]}),
        ),
        max_leaves=15,
    )


data = nested(leaves, keys)
strange = st.one_of(
    leaves,
    st.frozensets(st.integers(), max_size=2),
    st.complex_numbers(),
    st.times(),
    st.timedeltas(),
    st.text().map(Name),
    st.text(st.sampled_from("a\ud83d\ude00")),
    st.builds(Record),
    st.builds(NoRepr),
    st.integers(630, 5000).map(lambda digits: -(10**digits)),
    st.sampled_from([Color.RED, Number.ONE, Point(1, 2), Order(1), print]),
)
strange_keys = st.one_of(
    keys, st.integers(), st.sampled_from([Color.RED, None, Name("n"), (1,), "\ud83d\ude00"])
)


@given(data)
def test_round_trip(value: Any) -> None:
    """Data of any kind comes back as it was."""
    text = dump(value, "value")
    assert text.isascii()
    assert same(load(text), value)


@given(nested(strange, strange_keys))
def test_round_trip_or_refusal(value: Any) -> None:
    """A value of any kind is refused, or comes back as it was."""
    try:
        text = dump(value, "value")
    except SerializationError:
        return
    assert same(load(text), value)


@given(st.lists(data, max_size=4).map(tuple), st.dictionaries(keys, data, max_size=3))
def test_call_round_trip(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Positional and named arguments come back, whatever the names are."""
    assert same(load_call(dump_call(photo_task, args, kwargs)), (args, kwargs))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        1.0,
        -0.0,
        math.nan,
        -math.inf,
        10**639,
        "",
        "ä😀\0\u2028",
        "\udcff",  # a file name that is not UTF-8
        b"\0\xff",
        Markup("<b>"),
        UUID(int=0x72C9640200534B9985A814F52B7DA51E),
        Decimal("1.10"),
        Decimal("-0E+7"),
        Decimal("sNaN12"),
        date(1, 1, 1),
        datetime(2024, 1, 1, 0, 0, 0, 1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 10, 27, 2, 30, fold=1),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3))),
        [],
        (),
        {},
        ((), [()], {"a": ({},)}),
        {"z": 1, "a": 2},
        {"": None},
        {" t": [1]},
        {" di": {" t__": [1]}},
        {" up": {"file": "0"}},
        {" dt": ["x", 0, None]},
    ],
    ids=repr,
)
def test_values(value: Any) -> None:
    """Doubtful values come back as they were, alone and as arguments."""
    assert same(load(dump(value, "value")), value)
    args, kwargs = load_call(dump_call(photo_task, (value,), {"size": value}))
    assert same([args, kwargs], [(value,), {"size": value}])


@pytest.mark.parametrize("name", TAGS)
def test_names_that_look_like_tags(name: str) -> None:
    """A keyword may look like a tag, however simple the call is."""
    assert same(load_call(dump_call(photo_task, (), {name: 1})), ((), {name: 1}))


def test_zones_are_alive() -> None:
    """A time in a zone can be calculated with in that zone."""
    before = datetime(2024, 3, 30, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    after = load(dump(before, "value")) + timedelta(days=1)
    assert (before.utcoffset(), after.utcoffset()) == (timedelta(hours=1), timedelta(hours=2))


class _Zone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        return "UTC"


def _self_containing() -> list[Any]:
    loop: list[Any] = []
    loop.append({"again": loop})
    return loop


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("value", "what", "cure"),
    [
        ({1, 2}, "is of the type set,", "pass a list"),
        (frozenset(), "is of the type frozenset,", "pass a list"),
        (bytearray(b"x"), "is of the type bytearray,", "pass bytes"),
        (1j, "is of the type complex,", "pass strings, numbers"),
        (timedelta(1), "is of the type datetime.timedelta,", "total_seconds()"),
        (time(1), "is of the type datetime.time,", "isoformat()"),
        (Path("/etc"), "is of the type pathlib.", "str()"),
        (Color.RED, "is of the type tests.payload.test_data.Color,", "pass its value"),
        (Number.ONE, "is of the type tests.payload.test_data.Number,", "pass its value"),
        (Name("x"), "is of the type tests.payload.test_data.Name,", "pass a plain str"),
        (Point(1, 2), "is of the type tests.payload.test_data.Point,", "pass a plain tuple"),
        (Order(1), "is of the type tests.payload.test_data.Order,", "dataclasses.asdict()"),
        (OrderedDict(a=1), "is of the type collections.OrderedDict,", "pass a plain dict"),
        (Secret(a="b"), "is of the type tests.payload.test_data.Secret,", "pass a plain dict"),
        (MappingProxyType({}), "is of the type mappingproxy,", "pass a plain dict"),
        (ImmutableMultiDict({"a": 1}), "ImmutableMultiDict,", "to_dict(flat=False)"),
        (Record(), "is of the type tests.payload.test_data.Record,", "primary key"),
        (NoRepr(), "is of the type tests.payload.test_data.NoRepr,", "pass strings, numbers"),
        (print, "is of the type builtin_function_or_method,", "pass strings, numbers"),
        (int, "is of the type type,", "pass strings, numbers"),
        (FileStorage(io.BytesIO()), "FileStorage,", "where it was saved"),
        (10**640, "is a number of more than 640 digits,", "hexadecimal"),
        ("\ud83d\ude00", "is text with a pair of surrogates,", "pass bytes"),
        (Markup("\ud83d\ude00"), "is text with a pair of surrogates,", "pass bytes"),
        ({7: "x"}, "has the key 7 of the type int,", "use strings as keys"),
        ({None: 1}, "has the key None of the type NoneType,", "use strings as keys"),
        ({Color.RED: 1}, "of the type tests.payload.test_data.Color,", "use strings as keys"),
        ({10**5000: 1}, "has the key ? of the type int,", "use strings as keys"),
        ({("x" * 99,): 1}, "xxx... of the type tuple,", "use strings as keys"),
        ({NoRepr(): 1}, "has the key ? of the type tests.payload.test_data.NoRepr,", "use strings as keys"),
        ({"\ud83d\ude00": 1}, "with a pair of surrogates,", "well-formed"),
        (datetime(2024, 1, 1, tzinfo=_Zone()), "is a datetime in the zone <", "zoneinfo.ZoneInfo"),
        (
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "X")),
            "zone datetime.timezone(",
            "zoneinfo.ZoneInfo",
        ),
        (make_item(), "is of the type flask_background.core.item.WorkItem,", "pass its id"),
        (_deep(DEEPEST + 1), "is nested deeper than 64 levels, or contains itself,", "flatter"),
        (_self_containing(), "is nested deeper than 64 levels, or contains itself,", "flatter"),
    ],
)
def test_refusals(value: Any, what: str, cure: str) -> None:
    """A value that would come back changed is refused, with its type and the cure."""
    with pytest.raises(SerializationError) as caught:
        dump(value, "the result")
    message = str(caught.value)
    assert message.startswith("the result")
    assert what in message
    assert "cannot be kept as data: " in message
    assert cure in message.partition(" as data: ")[2]


@pytest.mark.parametrize("made", [{}, {"key": "Europe/Nowhere"}])
def test_zones_from_files_are_refused(made: dict[str, str]) -> None:
    """A zone without a name, or with one that only this process knows, is refused."""
    with open("/usr/share/zoneinfo/Europe/Berlin", "rb") as file:
        zone = ZoneInfo.from_file(file, **made)
    with pytest.raises(SerializationError, match=r"use datetime\.timezone\.utc"):
        dump(datetime(2024, 1, 1, tzinfo=zone), "value")


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        (({1},), {}, "photo is"),
        (({"tags": ["a", "b", "c", {1}]},), {}, "photo['tags'][3] is"),
        ((0, {1}), {}, "size is"),
        ((0, 0, {1}), {}, "argument 3 is"),
        ((0,), {"more": ({"x": {1}},)}, "more[0]['x'] is"),
        (({"a": {"b": {1: 2}}},), {}, "photo['a']['b'] has the key 1"),
        ((), {"\ud83d\ude00": 1}, "the call has the key"),
        ((), {Color.RED: 1}, "the call has the key"),
    ],
)
def test_refusals_name_the_place(args: Any, kwargs: Any, place: str) -> None:
    """The error names the argument as the function does, with the path to the wrong part."""
    with pytest.raises(SerializationError) as caught:
        dump_call(photo_task, args, kwargs)
    assert str(caught.value).startswith(place)


def test_deepest_comes_back() -> None:
    """The deepest allowed value can be written and read, also deep in the call stack of a view."""
    value = _deep(DEEPEST)

    def deeper(calls: int) -> Any:
        return deeper(calls - 1) if calls else load(dump(value, "value"))

    assert same(deeper(300), value)


def test_size() -> None:
    """A value of more bytes than allowed is refused, with both numbers and the setting's name."""
    text = dump_call(photo_task, ("ä" * 100,), {})
    assert dump_call(photo_task, ("ä" * 100,), {}, max_bytes=len(text)) == text
    with pytest.raises(PayloadTooLargeError) as caught:
        dump_call(photo_task, ("ä" * 100,), {}, max_bytes=len(text) - 1)
    assert f"the arguments would take {len(text)} bytes" in str(caught.value)
    assert f"BACKGROUND_MAX_PAYLOAD allows {len(text) - 1}" in str(caught.value)
    with pytest.raises(PayloadTooLargeError, match="the result would take 12 bytes"):
        dump("x" * 10, "the result", max_bytes=11)


def _refer(uploads: list[FileStorage]) -> Callable[[FileStorage], dict[str, Any]]:
    def refer(upload: FileStorage) -> dict[str, Any]:
        uploads.append(upload)
        headers = [list(pair) for pair in upload.headers]
        return {
            "file": str(len(uploads) - 1),
            "filename": upload.filename,
            "name": upload.name,
            "headers": headers,
        }

    return refer


def test_uploads() -> None:
    """Uploads are replaced by references, wherever they are, and made anew when the call is read."""
    headers = Headers([("Content-Type", "image/png"), ("X-Two", "1"), ("X-Two", "2")])
    uploads = [FileStorage(io.BytesIO(), f"ä{n}.png", f"f{n}", headers=headers) for n in range(3)]
    replaced: list[FileStorage] = []
    text = dump_call(
        photo_task,
        (uploads[0], [uploads[1]]),
        {"size": {"deep": (uploads[2], 1)}},
        replace=_refer(replaced),
    )
    assert replaced == uploads

    def rebuild(reference: dict[str, Any]) -> FileStorage:
        pairs = Headers([tuple(pair) for pair in reference["headers"]])
        stream = io.BytesIO(reference["file"].encode())
        return FileStorage(stream, reference["filename"], reference["name"], headers=pairs)

    (first, (second,)), kwargs = load_call(text, rebuild=rebuild)
    third, one = kwargs["size"]["deep"]
    assert one == 1
    for number, (own, upload) in enumerate(zip((first, second, third), uploads, strict=True)):
        assert own.read() == str(number).encode()
        assert (own.filename, own.name, own.content_type) == (upload.filename, upload.name, "image/png")
        assert list(own.headers) == list(headers)


def test_references_can_be_looked_at() -> None:
    """Reading a call without opening its uploads returns the references."""
    upload = FileStorage(io.BytesIO(), "a.png", "f")
    text = dump_call(photo_task, (upload,), {}, replace=_refer([]))
    (reference,), _ = load_call(text)
    assert reference == {"file": "0", "filename": "a.png", "name": "f", "headers": []}


def test_an_upload_in_two_places() -> None:
    """An upload that is passed twice is replaced once, and both places refer to that."""
    upload = FileStorage(io.BytesIO(), "a.png", "f")
    replaced: list[FileStorage] = []
    text = dump_call(photo_task, (upload,), {"size": [upload]}, replace=_refer(replaced))
    assert replaced == [upload]
    (first,), kwargs = load_call(text)
    assert kwargs == {"size": [first]}


def test_no_upload_is_replaced_in_vain() -> None:
    """Uploads are untouched if another argument is refused."""
    replaced: list[FileStorage] = []
    with pytest.raises(SerializationError, match="size is of the type set"):
        dump_call(photo_task, (FileStorage(io.BytesIO()), {1}), {}, replace=_refer(replaced))
    assert replaced == []


def test_the_usual_call_is_plain_json() -> None:
    """The text can be read by people who look into the journal."""
    assert dump_call(photo_task, (1, "a"), {"size": None}) == '[[1,"a"],{"size":null}]'


def test_state() -> None:
    """A state comes back equal and frozen, and its values may look like tags."""
    values = {" t": [1], "user": {"id": 7, "name": "ä"}}
    state = RequestState(
        "PUT", "https", "example.com", "/shop", "/ä", None, "192.0.2.1", None, None, MappingProxyType(values)
    )
    text = dump_state(state)
    back = load_state(text)
    assert type(back) is RequestState
    assert back == state
    assert type(back.values) is MappingProxyType
    fields = json.loads(text)
    assert fields["host"] == "example.com"
    del fields["traceparent"], fields["tracestate"]  # as in a journal from before there was either
    assert load_state(json.dumps(fields)) == state


def test_captured_state(app: Flask) -> None:
    """The values of a request are data, even if its path is not UTF-8."""
    with app.test_request_context("/%FF%F0%9F%98%80?q=%FF", headers={"Host": "example.com:8080"}) as context:
        state = RequestState._capture(context.request, [lambda: {"half": "\ud83d", "n": 1.5, "deep": [{}]}])
    assert load_state(dump_state(state)) == state
