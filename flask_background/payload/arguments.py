"""The check of arguments: plain values pass, objects of the request are refused, and uploads are moved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NoReturn

from werkzeug.datastructures import FileStorage, ImmutableMultiDict, MultiDict
from werkzeug.local import LocalProxy

from flask_background.errors import ArgumentError, UploadMovedError

_COPY = "read the values that the item needs in the view, and pass those"

# Classes of live objects by module and name, so that nothing has to be imported to recognise them; their
# subclasses are as live. RequestState keeps some values of a request for the item, as current_item.state.
_LIVE = {
    ("werkzeug.sansio.request", "Request"): ("the request", _COPY),
    ("werkzeug.sansio.response", "Response"): ("a response", "pass the data that it is made of"),
    ("werkzeug.wsgi", "LimitedStream"): ("the request's input stream", "read it in the view"),
    ("werkzeug.datastructures.headers", "EnvironHeaders"): ("the request's headers", _COPY),
    ("flask.sessions", "SessionMixin"): ("the session", _COPY),
    ("flask.ctx", "_AppCtxGlobals"): ("g", _COPY),
    ("flask.ctx", "AppContext"): ("an app context", "leave it out: an item has its own"),
    ("flask.ctx", "RequestContext"): ("a request context", _COPY),
    ("flask.sansio.app", "App"): ("the app", "leave it out: an item has current_app"),
    ("sqlalchemy.orm.session", "Session"): ("a database session", "open one in the item"),
    ("sqlalchemy.orm.scoping", "scoped_session"): ("a database session", "open one in the item"),
}
#: Types whose values need no further examination.
SCALARS = frozenset({str, int, float, bool, bytes, type(None), complex})
_REBUILT = frozenset({list, tuple, set, frozenset})


class Moved:
    """The uploads that an item has taken over; the moves can be undone."""

    def __init__(self) -> None:
        self.own: list[FileStorage] = []
        self._from: list[tuple[FileStorage, Any]] = []

    def move(self, upload: FileStorage) -> FileStorage:
        """Move the upload's file to a new FileStorage for the item, and close the view's FileStorage."""
        stream = upload.stream
        if stream.seekable():
            stream.seek(0)
        own = FileStorage(stream, upload.filename, upload.name, headers=upload.headers.copy())
        self._from.append((upload, stream))
        self.own.append(own)
        upload.stream = _Gone(upload.filename)  # type: ignore[assignment]
        return own

    def give_back(self) -> None:
        """Undo the moves, because the item was not accepted."""
        for upload, stream in self._from:
            if not stream.closed and stream.seekable():
                stream.seek(0)  # the file may have been read, to store it elsewhere
            upload.stream = stream


def take_over(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Moved | None]:
    """Check the arguments and move the uploads among them.

    Returns the item's arguments, and the moves or None. Raises ArgumentError with the argument's name; then
    nothing has been moved. A container without an upload is passed on unchanged, not copied.
    """
    for value in args:
        if type(value) not in SCALARS:
            break
    else:
        if not kwargs:  # true of most items: to examine even one argument costs 0.5 µs
            return args, kwargs, None
    uploads: dict[int, FileStorage] = {}
    for index, value in enumerate(args):
        _examine(value, partial(positional, func, index), uploads)
    for name, value in kwargs.items():
        _examine(value, partial(str, name), uploads)
    if not uploads:
        return args, kwargs, None
    moved = Moved()
    try:
        replace = {key: moved.move(upload) for key, upload in uploads.items()}
    except BaseException:
        moved.give_back()
        raise
    args = tuple(_rebuild(value, replace) for value in args)
    return args, {name: _rebuild(value, replace) for name, value in kwargs.items()}, moved


def refuse_live_closure(func: Callable[..., Any]) -> None:
    """Refuse live objects in a partial's arguments, in a method's object or in a closure's variables."""
    if isinstance(func, partial):
        _examine((func.args, func.keywords), lambda: "the partial's argument", None)
        func = func.func
    if (owner := getattr(func, "__self__", None)) is not None:
        _examine(owner, lambda: "the method's object", None)
    code, cells = getattr(func, "__code__", None), getattr(func, "__closure__", None)
    if code is not None and (defaults := func.__defaults__):
        names = code.co_varnames[: code.co_argcount][-len(defaults) :]
        for name, value in zip(names, defaults, strict=True):
            _examine(value, partial(str, name), None)
    for name, value in (getattr(func, "__kwdefaults__", None) or {}).items():
        _examine(value, partial(str, name), None)
    for name, cell in zip(code.co_freevars, cells, strict=True) if code and cells else ():
        try:
            value = cell.cell_contents
        except ValueError:  # the variable is not bound yet
            continue
        _examine(value, partial(str, name), None)


def _examine(
    value: Any,
    where: Callable[[], str],
    uploads: dict[int, FileStorage] | None,
    inside: frozenset[int] = frozenset(),
) -> None:
    """Refuse value if it is live or contains a live object; collect the uploads.

    ``where`` returns the value's name for an error. Without ``uploads`` an upload is refused.
    """
    kind = type(value)
    if kind in SCALARS:
        return
    if issubclass(kind, LocalProxy):
        _refuse(where(), *_behind(value))
    if isinstance(value, FileStorage):
        if uploads is None:
            _refuse(where(), "an upload", "pass it as an argument, or in a list or dict")
        uploads[id(value)] = value
        return
    live = _liveness(kind)  # type: ignore[arg-type]
    if live is not None:
        _refuse(where(), *live)
    if hasattr(kind, "_sa_class_manager"):
        record = getattr(value, "_sa_instance_state", None)
        if record is not None and record.session is not None:
            _refuse(where(), "an object attached to a database session", "pass its primary key")
        return
    if not isinstance(value, (list, tuple, set, frozenset, deque, Mapping)):
        return
    if id(value) in inside:
        _refuse(where(), "a container that contains itself", "pass plain values")
    if kind not in _REBUILT and kind not in (dict, MultiDict, ImmutableMultiDict):
        uploads = None
    inside = inside | {id(value)}
    if isinstance(value, Mapping):
        pairs = value.items(multi=True) if isinstance(value, MultiDict) else value.items()
        for key, member in pairs:
            _examine(key, lambda: f"a key of {where()}", None, inside)
            _examine(member, lambda k=key: f"{where()}[{k!r}]", uploads, inside)  # type: ignore[misc]
    else:
        for index, member in enumerate(value):
            if type(member) not in SCALARS:
                _examine(member, lambda i=index: f"{where()}[{i}]", uploads, inside)  # type: ignore[misc]


def _behind(proxy: LocalProxy[Any]) -> tuple[str, str]:
    """Return a description of the object behind a proxy, and the cure."""
    try:
        live = _liveness(type(proxy._get_current_object()))  # type: ignore[arg-type]
    except RuntimeError:  # the proxy is unbound
        live = None
    return live or ("a proxy, whose object differs in every context", _COPY)


@lru_cache(maxsize=1024)
def _liveness(kind: type) -> tuple[str, str] | None:
    for parent in kind.__mro__:
        live = _LIVE.get((parent.__module__, parent.__qualname__))
        if live is not None:
            return live
    return None


def positional(func: Callable[..., Any], index: int) -> str:
    """Return the name of func's positional argument, or its number."""
    code = getattr(func, "__code__", None)
    if code is not None and index < code.co_argcount:
        return str(code.co_varnames[index])
    return f"argument {index + 1}"


def _refuse(where: str, what: str, cure: str) -> NoReturn:
    raise ArgumentError(f"{where} is {what}, and cannot be handed over: {cure}")


def _rebuild(value: Any, replace: dict[int, Any]) -> Any:
    """Return the value with its uploads replaced; a container without an upload stays the same object."""
    if id(value) in replace:
        return replace[id(value)]
    if type(value) in _REBUILT:
        members = [_rebuild(member, replace) for member in value]
        if any(new is not old for new, old in zip(members, value, strict=True)):
            return type(value)(members)
    elif type(value) is dict:
        rebuilt = {key: _rebuild(member, replace) for key, member in value.items()}
        if any(rebuilt[key] is not value[key] for key in value):
            return rebuilt
    elif type(value) in (MultiDict, ImmutableMultiDict):
        pairs = list(value.items(multi=True))
        members = [_rebuild(member, replace) for _, member in pairs]
        if any(new is not old for new, (_, old) in zip(members, pairs, strict=True)):
            return type(value)((key, new) for new, (key, _) in zip(members, pairs, strict=True))
    return value


class _Gone:
    """The stream of a FileStorage whose upload was moved: closed, and every use of it raises an error."""

    closed = True

    def __init__(self, filename: str | None) -> None:
        self._filename = filename

    def close(self) -> None:
        """Do nothing: Werkzeug closes every upload when the request ends."""

    def __iter__(self) -> NoReturn:
        self.read()

    def __enter__(self) -> NoReturn:
        self.read()

    def __getattr__(self, name: str) -> NoReturn:
        raise UploadMovedError(
            f"the upload {self._filename!r} was moved to an item, which owns its file now: use it in"
            " the view before you enqueue, or in the item"
        )
