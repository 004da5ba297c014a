"""Live objects, which end with the request or a database session, and so cannot be passed to an item."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from itertools import chain
from types import BuiltinMethodType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from werkzeug.datastructures import FileStorage, ImmutableMultiDict, MultiDict
from werkzeug.local import LocalProxy

from flask_background.errors import ArgumentError

if TYPE_CHECKING:
    from werkzeug.wrappers import Request

_COPY = "read the values that the item needs in the view, and pass those"
_QUERY = "pass primary keys or plain values, and query in the item"
_INPUT = ("the request's input stream", "read it in the view")
_SESSION = ("a database session", "open one in the item")
_CONNECTION = ("a database session's connection", "open one in the item")

# Live classes by module and name, so that nothing has to be imported to recognise them; their subclasses are
# as live. RequestState keeps some values of a request for the item, as current_item.state.
_LIVE = {
    ("werkzeug.sansio.request", "Request"): ("the request", _COPY),
    ("werkzeug.sansio.response", "Response"): ("a response", "pass the data that it is made of"),
    ("werkzeug.wsgi", "LimitedStream"): _INPUT,
    ("werkzeug.datastructures.headers", "EnvironHeaders"): ("the request's headers", _COPY),
    ("flask.sessions", "SessionMixin"): ("the session", _COPY),
    ("flask.ctx", "_AppCtxGlobals"): ("g", _COPY),
    ("flask.ctx", "AppContext"): ("an app context", "leave it out: an item has its own"),
    ("flask.ctx", "RequestContext"): ("a request context", _COPY),
    ("flask.sansio.app", "App"): ("the app", "leave it out: an item has current_app"),
    ("sqlalchemy.orm.session", "Session"): _SESSION,
    ("sqlalchemy.orm.scoping", "scoped_session"): _SESSION,
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): _SESSION,
    ("sqlalchemy.ext.asyncio.scoping", "async_scoped_session"): _SESSION,
    ("sqlalchemy.engine.base", "Connection"): _CONNECTION,
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): _CONNECTION,
    ("sqlalchemy.orm.query", "Query"): ("a query of a database session", _QUERY),
    ("sqlalchemy.orm.writeonly", "WriteOnlyCollection"): ("a query of a database session", _QUERY),
    ("sqlalchemy.engine.result", "ResultInternal"): ("a result of a database session", _QUERY),
    ("flask_sqlalchemy.pagination", "Pagination"): ("a page of a database session's query", _QUERY),
}
# A row holds the selected values, perhaps models, and is not a tuple in every version.
_ROW = ("sqlalchemy.engine.row", "Row")
#: Types whose values need no further examination.
SCALARS = frozenset({str, int, float, bool, bytes, type(None), complex})
#: Containers in which uploads are replaced by those of the item.
REBUILT = frozenset({list, tuple, set, frozenset, dict, MultiDict, ImmutableMultiDict})
_METHODS = frozenset({MethodType, BuiltinMethodType})
# Objects nested deeper than this are not examined, because a linked list may have any length.
_DEEPEST = 50

Where = Callable[[], str]


class Look:
    """One examination of arguments: refuses live objects, and collects the uploads by their ids.

    ``request`` is the request that enqueues: its streams are refused. Without ``takes_uploads`` uploads are
    refused as well. Names are functions, called only for errors.
    """

    def __init__(self, request: Request | None, *, takes_uploads: bool) -> None:
        self.uploads: dict[int, FileStorage] = {}
        self._request = request
        self._takes_uploads = takes_uploads
        self._seen: set[int] = set()  # of objects with fields

    def examine(self, value: Any, where: Where) -> None:
        """Refuse value if it is live or contains a live object. Raises ArgumentError."""
        self._examine(value, where, self._takes_uploads, frozenset())

    def _examine(self, value: Any, where: Where, takes_uploads: bool, inside: frozenset[int]) -> None:
        kind = type(value)
        if kind in SCALARS:
            return
        if issubclass(kind, LocalProxy):
            _refuse(where(), *_behind(value))
        if isinstance(value, FileStorage):
            if not takes_uploads:
                _refuse(where(), "an upload", "pass it as an argument, or in a list or dict")
            self.uploads[id(value)] = value
            return
        live = _liveness(kind)  # type: ignore[arg-type]
        if live is not None:
            _refuse(where(), *live)
        if hasattr(kind, "_sa_class_manager"):
            record = getattr(value, "_sa_instance_state", None)
            if record is not None and record.session is not None:
                _refuse(where(), "an object attached to a database session", "pass its primary key")
        elif isinstance(value, (list, tuple, set, frozenset, deque, Mapping)) or _is_row(kind):  # type: ignore[arg-type]
            if self._request is not None and value is self._request.environ:
                _refuse(where(), "the request's environ", _COPY)
            if id(value) in inside:
                _refuse(where(), "a container that contains itself", "pass plain values")
            self._examine_members(value, where, takes_uploads and kind in REBUILT, inside | {id(value)})
        else:
            self._examine_object(value, where, inside)

    def _examine_members(self, value: Any, where: Where, takes_uploads: bool, inside: frozenset[int]) -> None:
        if isinstance(value, Mapping):
            pairs = value.items(multi=True) if isinstance(value, MultiDict) else value.items()
            for key, member in pairs:
                self._examine(key, lambda: f"a key of {where()}", False, inside)
                self._examine(member, lambda k=key: f"{where()}[{k!r}]", takes_uploads, inside)  # type: ignore[misc]
            return
        for index, member in enumerate(value):
            if type(member) not in SCALARS:
                self._examine(member, lambda i=index: f"{where()}[{i}]", takes_uploads, inside)  # type: ignore[misc]

    def _examine_object(self, value: Any, where: Where, inside: frozenset[int]) -> None:
        """Examine a stream, a method, a partial, or an object of a dataclass or of attrs, and no other."""
        if self._request is not None and (stream := _stream_of(self._request, value)) is not None:
            _refuse(where(), *stream)
        kind = type(value)
        if kind in _METHODS:
            if not isinstance(value.__self__, ModuleType):
                self._examine_owner(value.__self__, where, inside)
            return
        members = [("", value.func), ("", value.args), ("", value.keywords)] if kind is partial else []
        members += [(f".{name}", getattr(value, name, None)) for name in _fields_of(kind)]
        if not members or id(value) in self._seen or len(inside) > _DEEPEST:
            return
        self._seen.add(id(value))
        inside = inside | {id(value)}
        for name, member in members:
            self._examine(member, lambda n=name: f"{where()}{n}", False, inside)  # type: ignore[misc]

    def _examine_owner(self, owner: Any, where: Where, inside: frozenset[int]) -> None:
        """Refuse a method whose object is live, with the cure for that object."""
        live = _liveness(type(owner))  # type: ignore[arg-type]
        if live is None and isinstance(owner, FileStorage):
            live = f"the upload {owner.filename!r}", _UPLOAD
        if live is None and self._request is not None:
            live = _stream_of(self._request, owner)
        if live is not None:
            _refuse(where(), f"a method of {live[0]}", live[1])
        self._examine(owner, where, False, inside)


_UPLOAD = "pass the upload itself, which takes its file along"


def _stream_of(request: Request, value: Any) -> tuple[str, str] | None:
    """Return a description of value and the cure, if value is a stream of the request; read nothing of it."""
    known = vars(request)
    if value is request.environ.get("wsgi.input") or value is known.get("stream"):
        return _INPUT
    files = known.get("files")
    for upload in () if files is None else chain.from_iterable(files.listvalues()):
        if upload.stream is value:
            return f"the stream of the upload {upload.filename!r}", _UPLOAD
    return None


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


@lru_cache(maxsize=1024)
def _is_row(kind: type) -> bool:
    return any((parent.__module__, parent.__qualname__) == _ROW for parent in kind.__mro__)


def _fields_of(kind: Any) -> Iterable[str]:
    """Return the names of the fields of a dataclass, or of a class of attrs."""
    names = dict.fromkeys(getattr(kind, "__dataclass_fields__", ()))
    return names | dict.fromkeys(field.name for field in getattr(kind, "__attrs_attrs__", ()))


def _refuse(where: str, what: str, cure: str) -> NoReturn:
    raise ArgumentError(f"{where} is {what}, and cannot be handed over: {cure}")
