"""Arguments: plain values pass, live objects are refused, and uploads move to the item."""

from __future__ import annotations

import io
import itertools
import threading
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app, g, jsonify, request, session
from flask.globals import app_ctx, request_ctx
from flask.sessions import SecureCookieSession
from flask_sqlalchemy import SQLAlchemy
from werkzeug.datastructures import FileStorage, ImmutableMultiDict, MultiDict
from werkzeug.local import LocalProxy
from werkzeug.test import TestResponse, encode_multipart
from werkzeug.wrappers import Response

from flask_background import Background, Status, WorkItem, current_item
from flask_background.errors import (
    ArgumentError,
    BackgroundError,
    ConfigurationError,
    QueueFull,
    Stopping,
    UploadMovedError,
)

from ..helpers import BOUND, Site, until

SMALL = b"small picture"
# Werkzeug keeps uploads above 500 kB on disk.
LARGE = b"large picture\n" * 50_000


def behind(proxy: Any) -> Any:
    """The object that a proxy stands for at this moment."""
    return proxy._get_current_object()


class Mapped:
    """An object as SQLAlchemy maps them, attached to a session or not."""

    _sa_class_manager = object()

    def __init__(self, attached: bool) -> None:
        self._sa_instance_state = SimpleNamespace(session=object() if attached else None)


def fake_sqlalchemy(module: str, name: str) -> Any:
    """An object of a class that has such a name in SQLAlchemy."""
    return type(name, (), {"__module__": module})()


# EnqueueError in every form.

LIVE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "request": (lambda: request, "the request", "read the values"),
    "session": (lambda: session, "the session", "read the values"),
    "g": (lambda: g, "g", "read the values"),
    "current_app": (lambda: current_app, "the app", "current_app"),
    "request_ctx": (lambda: request_ctx, "a request context", "read the values"),
    "current_item": (lambda: current_item, "a proxy", "read the values"),
    "user": (lambda: LocalProxy(lambda: "a user"), "a proxy", "read the values"),
    "the request": (lambda: behind(request), "the request", "read the values"),
    "the session": (lambda: behind(session), "the session", "read the values"),
    "another session": (lambda: SecureCookieSession(), "the session", "read the values"),
    "the g": (lambda: behind(g), "g", "read the values"),
    "the app": (lambda: behind(current_app), "the app", "current_app"),
    "another app": (lambda: Flask("other"), "the app", "current_app"),
    "app context": (lambda: behind(app_ctx), "an app context", "an item has its own"),
    "request context": (lambda: behind(request_ctx), "a request context", "read the values"),
    "headers": (lambda: request.headers, "the request's headers", "read the values"),
    "environ": (lambda: request.environ, "the request", "read the values"),
    "stream": (lambda: request.stream, "the request's input stream", "read it in the view"),
    "response": (lambda: jsonify(ok=True), "a response", "pass the data"),
    "werkzeug's response": (lambda: Response("ok"), "a response", "pass the data"),
    "attached object": (lambda: Mapped(True), "attached to a database session", "pass its primary key"),
    "database session": (
        lambda: fake_sqlalchemy("sqlalchemy.orm.session", "Session"),
        "a database session",
        "open one in the item",
    ),
    "scoped session": (
        lambda: fake_sqlalchemy("sqlalchemy.orm.scoping", "scoped_session"),
        "a database session",
        "open one in the item",
    ),
}

# What hands rows out, by the name of its class in SQLAlchemy and the like.
LIVE |= {
    f"{module}.{name}": (lambda m=module, n=name: fake_sqlalchemy(m, n), what, "in the item")
    for module, name, what in [
        ("sqlalchemy.orm.query", "Query", "a query of a database session"),
        ("sqlalchemy.orm.writeonly", "WriteOnlyCollection", "a query of a database session"),
        ("sqlalchemy.engine.result", "ResultInternal", "a result of a database session"),
        ("sqlalchemy.engine.base", "Connection", "a database session's connection"),
        ("sqlalchemy.ext.asyncio.session", "AsyncSession", "a database session"),
        ("sqlalchemy.ext.asyncio.engine", "AsyncConnection", "a database session's connection"),
        ("flask_sqlalchemy.pagination", "Pagination", "a page of a database session's query"),
    ]
}


@dataclass
class Letter:
    """A dataclass with one field for any value."""

    to: Any
    next: Any = None


@dataclass(slots=True, frozen=True)
class SlottedLetter:
    """The same without a dict."""

    to: Any


class Parcel:
    """An object of a class as attrs makes them."""

    __slots__ = ("to",)
    __attrs_attrs__ = (SimpleNamespace(name="to"),)

    def __init__(self, to: Any) -> None:
        self.to = to


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: ["first", value],
    "tuple": lambda value: ("first", value),
    "dict": lambda value: {"key": value},
    "deque": lambda value: deque(["first", value]),
    "MultiDict": lambda value: MultiDict([("key", "first"), ("key", value)]),
    "defaultdict": lambda value: defaultdict(list, key=value),
    "namedtuple": lambda value: namedtuple("Pair", "a b")("first", value),
    "dataclass": lambda value: Letter(value),
    "dataclass with slots": lambda value: SlottedLetter(value),
    "attrs": lambda value: Parcel([value]),
    "list of dataclasses": lambda value: [Letter("first"), Letter(Letter(value))],
    "partial": lambda value: partial(print, value),
    "method of a dataclass": lambda value: Letter(value).__repr__,
    "deep": lambda value: {"key": [("first", {"inner": [value]})]},
}


@pytest.fixture
def in_request(app: Flask) -> Any:
    """A request that is going on, with a body and a session."""
    app.secret_key = "key"
    with app.test_request_context(method="POST", data={"a": "b"}):
        yield


def refusal(background: Background, *args: Any, **kwargs: Any) -> str:
    """The error when this is enqueued, which must leave nothing enqueued."""

    @background.task
    def send(photo: Any, *others: Any, mode: Any = None) -> None: ...

    with pytest.raises(ArgumentError) as caught:
        send.enqueue(*args, **kwargs)
    assert background.items() == []
    return str(caught.value)


@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize(("make", "what", "cure"), LIVE.values(), ids=LIVE)
def test_refused(background: Background, make: Callable[[], Any], what: str, cure: str) -> None:
    """A live object is refused; the error names the argument, its kind, and the cure."""
    message = refusal(background, make())
    assert message.startswith("photo")
    assert what in message
    assert cure in message


@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("kind", ["request", "the request", "attached object"])
def test_refused_inside(background: Background, kind: str, wrap: Callable[[Any], Any]) -> None:
    """A live object is refused at any depth of containers too; the error says where it is."""
    make, what, _ = LIVE[kind]
    message = refusal(background, wrap(make()))
    assert message.startswith(("photo[", "photo.", "photo is"))
    assert what in message


def test_real_queries_and_rows(make_site: Callable[..., Site]) -> None:
    """Queries, results, rows and pages of Flask-SQLAlchemy are refused by name; rows of values pass."""
    app, background = make_site(SQLALCHEMY_DATABASE_URI="sqlite://")
    database = SQLAlchemy(app)

    class Book(database.Model):  # type: ignore[name-defined, misc]
        id = database.Column(database.Integer, primary_key=True)

    taken: list[Any] = []
    task = background.task(taken.append)
    books = database.select(Book)
    with app.app_context():
        database.create_all()
        database.session.add(Book())
        database.session.commit()
        session = database.session
        for value, what in [
            (Book.query.filter_by(id=1), "value is a query"),
            (session.execute(books), "value is a result"),
            (session.execute(books).mappings(), "value is a result"),
            (session.scalars(books), "value is a result"),
            (session.connection(), "value is a database session's connection"),
            (database.paginate(books), "value is a page"),
            (session.execute(books).first(), r"value\[0\] is an object attached"),
            (session.execute(books).all(), r"value\[0\]\[0\] is an object attached"),
            (session.execute(books).mappings().first(), r"value\['Book'\] is an object attached"),
            (Letter(session.scalars(books).first()), "value.to is an object attached"),
            (Book.query.first, "value is a method of a query"),
        ]:
            with pytest.raises(ArgumentError, match=what):
                background.enqueue(lambda value: None, value)
        row = session.execute(database.select(Book.id)).first()
        assert task.enqueue(row).wait(BOUND)
        session.remove()
        database.engine.dispose()  # it keeps its connection open
    assert taken == [(1,)]


@pytest.mark.parametrize("content", [b"small", b"large" * 200_000], ids=["in memory", "in a file"])
def test_streams_of_the_request(background: Background, visit: Visit, content: bytes) -> None:
    """Streams of the request and of uploads, and their methods, are refused, with the cure."""
    task = background.task(lambda value: None)

    def view() -> str:
        upload = request.files["photo"]
        for value in (upload.stream, upload.read, upload.stream.read, upload.save, upload.stream.seek):
            for argument in (value, [value], partial(print, value)):
                with pytest.raises(ArgumentError, match=r"upload '0\.jpg'.*pass the upload itself"):
                    task.enqueue(argument)
        for value in (
            request.stream,
            request.stream.read,
            request.environ["wsgi.input"],
            request.environ["wsgi.input"].read,
        ):
            with pytest.raises(ArgumentError, match=r"the request's input stream.*read it in the view"):
                task.enqueue(value)
        for value in (request.get_data, request.get_json):
            with pytest.raises(ArgumentError, match="value is a method of the request"):
                task.enqueue(value)
        with pytest.raises(ArgumentError, match="the method's object is the stream of the upload"):
            background.enqueue(upload.read)
        assert upload.read() == content  # nothing was moved, or read
        return "ok"

    visit(view, content)


def test_files_of_the_apps_own(background: Background, tmp_path: Path, app: Flask) -> None:
    """Files that are not the request's pass, as do objects of dataclasses that know one another."""
    path = tmp_path / "file"
    path.write_text("content")
    letters = [Letter(number) for number in range(2_000)]
    for one, other in itertools.pairwise(letters):
        one.next, other.to = other, one
    with app.test_request_context(), path.open() as file, SpooledTemporaryFile() as spooled:
        task = background.task(lambda value: value)
        for value in (file, file.read, spooled, io.BytesIO(), letters, letters[0], print, [].append):
            assert task.enqueue(value).result(BOUND) is value


@pytest.mark.usefixtures("in_request")
def test_refused_in_sets_and_keys(background: Background) -> None:
    """Members of sets and keys of dicts are looked at as well."""
    context = behind(app_ctx)
    for live in ({context}, frozenset({context}), {context: 1}, [{context: 1}]):
        assert "an app context" in refusal(background, live)


@pytest.mark.usefixtures("in_request")
def test_names(background: Background) -> None:
    """The error names the argument as the function does, and places in containers as Python does."""
    assert refusal(background, request).startswith("photo is ")
    assert refusal(background, 1, 2, request).startswith("argument 3 is ")
    assert refusal(background, 1, mode=request).startswith("mode is ")
    assert refusal(background, photo=[1, request]).startswith("photo[1] is ")
    assert refusal(background, {"a": [{"b": request}]}).startswith("photo['a'][0]['b'] is ")


def test_endless(background: Background) -> None:
    """A container that contains itself is refused, instead of being searched for ever."""
    endless: list[Any] = [1]
    endless.append({"again": endless})
    assert "contains itself" in refusal(background, endless)


def test_same_container_twice(background: Background) -> None:
    """A container that occurs twice, but not inside itself, passes."""
    inner = [1, 2]
    assert background.enqueue(lambda value: value, [inner, inner]).result(BOUND) == [inner, inner]


# Accepted.


def test_plain_values_pass_as_they_are(app: Flask, background: Background) -> None:
    """Plain values, objects of the app's own and detached ORM objects arrive as the very same objects."""
    values = [
        None,
        True,
        1,
        1.5,
        1j,
        "text",
        b"bytes",
        Decimal("1.5"),
        Path("/tmp"),
        object(),
        [1, [2]],
        (1, 2),
        {"a": {"b": 1}},
        {1, 2},
        frozenset({1}),
        deque([1]),
        defaultdict(list, a=[1]),
        MultiDict([("a", 1)]),
        Mapped(attached=False),
        Blueprint("pages", "pages"),
        lambda: None,
        io.BytesIO(b"stream"),
    ]

    @background.task
    def give_back(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    with app.test_request_context():
        item = give_back.enqueue(*values, **{f"k{i}": value for i, value in enumerate(values)})
    args, kwargs = item.result(BOUND)
    assert all(new is old for new, old in zip(args, values, strict=True))
    assert all(new is old for new, old in zip(kwargs.values(), values, strict=True))


def test_plain_data_of_the_request(app: Flask, background: Background) -> None:
    """Form, query, cookies and JSON are plain data: they may be handed over."""
    with app.test_request_context("/?page=2", method="POST", data={"a": "b"}, headers={"Cookie": "c=d"}):
        item = background.enqueue(lambda *data: data, request.form, request.args, request.cookies)
    form, query, cookies = item.result(BOUND)
    assert (form["a"], query["page"], cookies["c"]) == ("b", "2", "d")


# What a callable brings along.


@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize(("make", "what", "cure"), LIVE.values(), ids=LIVE)
def test_refused_in_closures(background: Background, make: Callable[[], Any], what: str, cure: str) -> None:
    """A lambda's variables are looked at like arguments, and named."""
    photo = make()
    with pytest.raises(ArgumentError, match=r"^photo\b") as caught:
        background.enqueue(lambda: photo)
    assert what in str(caught.value)
    assert cure in str(caught.value)
    assert background.items() == []


@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize("kind", ["request", "the request", "attached object"])
def test_refused_in_defaults(background: Background, kind: str) -> None:
    """A live object as a lambda's default, ``lambda photo=photo: …``, is refused too."""
    make, what, cure = LIVE[kind]
    live = make()
    with pytest.raises(ArgumentError, match=r"^photo\b") as caught:
        background.enqueue(lambda photo=live: photo)
    assert what in str(caught.value)
    with pytest.raises(ArgumentError, match=r"^photo\b") as caught:
        background.enqueue(lambda *, photo=live: photo)
    assert cure in str(caught.value)
    assert background.items() == []


@pytest.mark.usefixtures("in_request")
def test_refused_in_partials(background: Background) -> None:
    """A partial's arguments are looked at, by position and by name, and those of a partial of a partial."""
    live = behind(request)
    keep = print
    for func in (
        partial(keep, live),
        partial(keep, end=live),
        partial(keep, [live]),
        partial(partial(keep, live), 1),
        partial(lambda value: live, 1),
    ):
        with pytest.raises(ArgumentError, match="the request"):
            background.enqueue(func)
    with pytest.raises(ArgumentError, match=r"^the partial's argument\[0\]"):
        background.enqueue(partial(keep, live))


@pytest.mark.usefixtures("in_request")
def test_refused_methods(background: Background) -> None:
    """A method of a live object is refused."""
    with pytest.raises(ArgumentError, match="the method's object is the request"):
        background.enqueue(request.get_data)
    with pytest.raises(ArgumentError, match="the method's object is the session"):
        background.enqueue(session.clear)
    with pytest.raises(ArgumentError, match="the request"):
        background.enqueue(partial(request.get_data, True))


@pytest.mark.usefixtures("in_request")
def test_refused_arguments_of_callables(background: Background) -> None:
    """The arguments of ``background.enqueue`` are looked at as those of a task are."""
    with pytest.raises(ArgumentError, match=r"^argument 1 is the request"):
        background.enqueue(print, request)
    with pytest.raises(ArgumentError, match=r"^end\['a'\] is the request"):
        background.enqueue(print, end={"a": request})


def test_closures_of_plain_values(background: Background) -> None:
    """Closures and partials of plain values run, also with a variable that is bound later."""

    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    def late() -> int:
        return later

    values = [1, 2]
    item = background.enqueue(lambda: values)
    assert item.result(BOUND) is values
    assert background.enqueue(factorial, 5).result(BOUND) == 120
    assert background.enqueue(partial(pow, 2), 5).result(BOUND) == 32
    assert background.enqueue("a-b".split, "-").result(BOUND) == ["a", "b"]
    gate = threading.Event()
    item_of_late = background.enqueue(lambda: gate.wait(BOUND) and late())
    later = 7
    gate.set()
    assert item_of_late.result(BOUND) == 7


# Uploads.

Visit = Callable[..., TestResponse]


def visits(site: Site) -> Visit:
    """A function that posts pictures to a view of site."""

    def visit(view: Callable[[], str], *pictures: bytes) -> TestResponse:
        site.app.add_url_rule("/photos", view_func=view, methods=["POST"])
        photos = [
            FileStorage(io.BytesIO(data), f"{n}.jpg", content_type="image/jpeg")
            for n, data in enumerate(pictures)
        ]
        # As bytes: the client would keep a large body in a file that it leaves open.
        boundary, body = encode_multipart({"photo": photos, "title": "Sea"})
        kind = f'multipart/form-data; boundary="{boundary}"'
        response = site.client.post("/photos", data=body, content_type=kind)
        assert response.status_code == 200, response.text
        response.close()
        return response

    return visit


@pytest.fixture
def visit(site: Site) -> Visit:
    """Posts pictures to a view."""
    return visits(site)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["memory", "disk"])
@pytest.mark.parametrize("coroutine", [False, True], ids=["function", "coroutine"])
def test_upload(
    background: Background, visit: Visit, gate: threading.Event, content: bytes, coroutine: bool
) -> None:
    """An upload outlives its request, is moved and not copied, and is closed when the item ends."""
    streams: list[Any] = []
    seen: list[FileStorage] = []

    def read(photo: FileStorage) -> tuple[Any, ...]:
        seen.append(photo)
        assert gate.wait(BOUND)
        return photo.read(), photo.filename, photo.name, photo.content_type, photo.mimetype

    async def read_later(photo: FileStorage) -> tuple[Any, ...]:
        return read(photo)

    items: list[WorkItem[Any]] = []

    def view() -> str:
        upload = request.files["photo"]
        streams.append(upload.stream)
        items.append(background.enqueue(read_later if coroutine else read, upload))
        return ""

    visit(view, content)
    gate.set()
    assert items[0].wait(BOUND)
    assert items[0].result(0) == (content, "0.jpg", "photo", "image/jpeg", "image/jpeg")
    (stream,), (own,) = streams, seen
    assert own.stream is stream
    assert stream.closed
    if content is LARGE:
        assert stream._rolled


def test_upload_is_gone_from_the_view(background: Background, visit: Visit, tmp_path: Path) -> None:
    """Every use that the view makes of an upload that it gave away raises an error that says so."""

    def view() -> str:
        upload = request.files["photo"]
        item = background.enqueue(lambda photo: photo.read(), upload)
        for touch in (
            lambda: upload.read(),
            lambda: upload.save(tmp_path / "copy.jpg"),
            lambda: upload.seek(0),
            lambda: upload.stream.read(),
            lambda: list(upload),
            lambda: list(upload.stream),
            lambda: upload.stream.__enter__(),
            lambda: background.enqueue(print, upload),
        ):
            with pytest.raises(UploadMovedError, match=r"'0\.jpg' was moved to an item"):
                touch()
        assert upload.stream.closed
        assert upload.filename == "0.jpg"
        upload.close()
        upload.close()
        assert item.result(BOUND) == SMALL
        assert len(background.items()) == 1
        return ""

    visit(view, SMALL)


def test_upload_error_is_caught_as_value_error() -> None:
    """Code that expects Python's error for closed files catches this one too."""
    assert issubclass(UploadMovedError, ValueError)
    assert issubclass(UploadMovedError, BackgroundError)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["memory", "disk"])
def test_upload_that_was_read(background: Background, visit: Visit, content: bytes) -> None:
    """An upload that the view has read from arrives whole."""
    items = []

    def view() -> str:
        upload = request.files["photo"]
        assert upload.read(5) == content[:5]
        items.append(background.enqueue(lambda photo: photo.read(), upload))
        return ""

    visit(view, content)
    assert items[0].result(BOUND) == content


def test_uploads_in_containers(background: Background, visit: Visit) -> None:
    """Uploads move out of lists, tuples, sets, dicts and MultiDicts; what holds none is not copied."""
    plain = {"title": ["Sea"]}
    items = []

    @background.task
    def read(*args: Any, **kwargs: Any) -> Any:
        (a, b), (c, [d]), e, f, same = args
        assert same is plain
        assert type(e) is set
        assert kwargs["title"] == "Sea"
        return [photo.read() for photo in (a, b["x"], c, d, *e, *f.getlist("p"), kwargs["photo"])]

    def view() -> str:
        one, two, three, four, five, six, seven, eight = request.files.getlist("photo")
        files = MultiDict([("p", six), ("q", "text"), ("p", seven)])
        items.append(
            read.enqueue([one, {"x": two}], (three, [four]), {five}, files, plain, photo=eight, title="Sea")
        )
        return ""

    pictures = [b"%d" % n for n in range(8)]
    visit(view, *pictures)
    assert items[0].result(BOUND) == pictures


def test_all_files_of_a_request(background: Background, visit: Visit) -> None:
    """``request.files`` may be handed over as it is."""
    items = []

    def read(files: ImmutableMultiDict[str, FileStorage]) -> tuple[Any, list[bytes]]:
        return type(files), [photo.read() for photo in files.getlist("photo")]

    def view() -> str:
        items.append(background.enqueue(read, request.files))
        with pytest.raises(UploadMovedError):
            request.files["photo"].read()
        return ""

    visit(view, SMALL, LARGE)
    assert items[0].result(BOUND) == (ImmutableMultiDict, [SMALL, LARGE])


def test_same_upload_twice(background: Background, visit: Visit) -> None:
    """An upload that occurs twice arrives as one object, twice."""
    items = []

    def view() -> str:
        upload = request.files["photo"]
        items.append(background.enqueue(lambda a, b: (a is b[0], a.read()), upload, b=[upload]))
        return ""

    visit(view, SMALL)
    assert items[0].result(BOUND) == (True, SMALL)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda upload: deque([upload]),
        lambda upload: OrderedDict(photo=upload),
        lambda upload: namedtuple("Pair", "a")(upload),
        lambda upload: {upload: 1},
        lambda upload: [deque([upload])],
    ],
    ids=["deque", "OrderedDict", "namedtuple", "key", "deep"],
)
def test_upload_in_other_containers(background: Background, visit: Visit, wrap: Callable[[Any], Any]) -> None:
    """An upload that cannot be replaced is refused with the cure, and stays the view's."""

    def view() -> str:
        upload = request.files["photo"]
        with pytest.raises(ArgumentError, match=r"an upload.*pass it as an argument, or in a list or dict"):
            background.enqueue(print, wrap(upload))
        assert upload.read() == SMALL
        return ""

    visit(view, SMALL)


def test_upload_in_a_callable(background: Background, visit: Visit) -> None:
    """An upload inside a callable cannot be replaced there, and is refused with the cure."""

    def view() -> str:
        upload = request.files["photo"]
        for func in (lambda: upload.read(), partial(print, upload), upload.save):
            with pytest.raises(
                ArgumentError, match=r"an upload.*pass it as an argument, or in a list or dict"
            ):
                background.enqueue(func)
        assert upload.read() == SMALL
        return ""

    visit(view, SMALL)


def give_up(site: Site, visit: Visit, error: type[Exception], enqueue: Callable[..., Any]) -> None:
    """Enqueue two uploads in vain, and check that the view has them back."""

    def view() -> str:
        small, large = request.files.getlist("photo")
        before = site.background.items()
        with pytest.raises(error):
            enqueue(small, large)
        assert small.read() == SMALL
        assert large.read() == LARGE
        assert site.background.items() == before
        return ""

    visit(view, SMALL, LARGE)


def test_given_back_when_full(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """A view has its uploads back when the queue is full."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1)
    for _ in range(2):
        site.background.enqueue(gate.wait, BOUND)
    give_up(
        site,
        visits(site),
        QueueFull,
        lambda *uploads: site.background.enqueue(print, *uploads),
    )


def test_given_back_when_stopped(site: Site, visit: Visit) -> None:
    """A view has its uploads back when the process takes no more items."""
    site.background.stop(0)
    give_up(site, visit, Stopping, lambda *uploads: site.background.enqueue(print, *uploads))


def test_given_back_when_misconfigured(site: Site, visit: Visit) -> None:
    """A view has its uploads back when the task names an executor that does not exist."""
    task = site.background.task(executor="mails")(print)
    give_up(site, visit, ConfigurationError, task.enqueue)


def test_given_back_when_another_is_closed(site: Site, visit: Visit) -> None:
    """If one of several uploads cannot be moved, none is."""
    closed = FileStorage(io.BytesIO(b""), "closed.jpg")
    closed.close()
    give_up(site, visit, ValueError, lambda *uploads: site.background.enqueue(print, *uploads, closed))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_not_moved_when_refused(site: Site, visit: Visit, position: int) -> None:
    """Uploads stay where they are if another argument is refused, before or after them."""

    def enqueue(*uploads: FileStorage) -> None:
        args: list[Any] = list(uploads)
        args.insert(position, request)
        site.background.enqueue(print, *args)

    give_up(site, visit, ArgumentError, enqueue)


def test_not_moved_when_they_do_not_fit(site: Site, visit: Visit) -> None:
    """Uploads stay where they are if the call does not fit the function."""

    @site.background.task
    def one(photo: Any) -> None: ...

    give_up(site, visit, TypeError, one.enqueue)


def test_closed_when_it_fails(background: Background, visit: Visit) -> None:
    """The file of an item that failed is closed."""
    streams = []
    items = []

    def view() -> str:
        upload = request.files["photo"]
        streams.append(upload.stream)
        items.append(background.enqueue(lambda photo: 1 / 0, upload))
        return ""

    visit(view, LARGE)
    assert items[0].wait(BOUND)
    assert isinstance(items[0].exception(0), ZeroDivisionError)
    assert streams[0].closed


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_closed_when_it_never_runs(make_site: Callable[..., Site], gate: threading.Event, how: str) -> None:
    """The file of an item that never runs is closed when it is cancelled, or when the process stops."""
    site = make_site(BACKGROUND_WORKERS=1)
    blocker = site.background.enqueue(gate.wait, BOUND)
    streams = []
    items: list[WorkItem[Any]] = []

    def view() -> str:
        upload = request.files["photo"]
        streams.append(upload.stream)
        items.append(site.background.enqueue(print, upload))
        return ""

    visits(site)(view, LARGE)
    assert not streams[0].closed
    if how == "cancel":
        assert items[0].cancel()
        assert items[0].status is Status.CANCELLED
    else:
        assert site.background.stop(0) == [blocker, items[0]]
        assert items[0].status is Status.INTERRUPTED
    assert streams[0].closed
    gate.set()
    assert blocker.wait(BOUND)


def test_open_while_it_runs_on(background: Background, visit: Visit, gate: threading.Event) -> None:
    """The file of an item that is on record as interrupted, but runs on, is closed when it does end."""
    started = threading.Event()
    streams = []
    items: list[WorkItem[bytes]] = []

    def read(photo: FileStorage) -> bytes:
        started.set()
        assert gate.wait(BOUND)
        return photo.read()

    def view() -> str:
        upload = request.files["photo"]
        streams.append(upload.stream)
        items.append(background.enqueue(read, upload))
        return ""

    visit(view, LARGE)
    assert started.wait(BOUND)
    assert background.stop(0) == items
    assert not streams[0].closed
    gate.set()
    until(lambda: items[0].status is Status.SUCCEEDED)
    assert background.wait_idle(BOUND)
    assert items[0].result(0) == LARGE
    assert streams[0].closed


def test_upload_without_a_request(background: Background) -> None:
    """A FileStorage that a script or a test has made is moved as well."""
    upload = FileStorage(io.BytesIO(SMALL), "a.jpg", "photo", "image/jpeg")
    assert background.enqueue(lambda photo: photo.read(), upload).result(BOUND) == SMALL
    with pytest.raises(UploadMovedError):
        upload.read()


def test_direct_call_moves_nothing(background: Background, visit: Visit) -> None:
    """A task that is called as a function takes nothing over, and refuses nothing."""

    @background.task
    def read(photo: FileStorage, anything: Any) -> bytes:
        return photo.read()

    def view() -> str:
        upload = request.files["photo"]
        assert read(upload, request) == SMALL
        upload.seek(0)
        assert upload.read() == SMALL
        return ""

    visit(view, SMALL)
