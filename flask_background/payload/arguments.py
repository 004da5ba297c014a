"""The check of arguments: plain values pass, objects of the request are refused, and uploads are moved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from werkzeug.datastructures import FileStorage, ImmutableMultiDict, MultiDict

from flask_background.errors import UploadMovedError
from flask_background.payload.live import SCALARS, Look

if TYPE_CHECKING:
    from werkzeug.wrappers import Request


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
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Request | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any], Moved | None]:
    """Check the arguments and move the uploads among them.

    ``request`` is the request that enqueues: its streams are refused. Returns the item's arguments, and the
    moves or None. Raises ArgumentError with the argument's name; then nothing has been moved. A container
    without an upload is passed on unchanged, not copied.
    """
    if not kwargs and SCALARS.issuperset(map(type, args)):
        return args, kwargs, None  # to examine even one costs 0.5 µs
    look = Look(request, takes_uploads=True)
    for index, value in enumerate(args):
        look.examine(value, partial(positional, func, index))
    for name, value in kwargs.items():
        look.examine(value, partial(str, name))
    if not look.uploads:
        return args, kwargs, None
    moved = Moved()
    try:
        replace = {key: moved.move(upload) for key, upload in look.uploads.items()}
    except BaseException:
        moved.give_back()
        raise
    args = tuple(_rebuild(value, replace) for value in args)
    return args, {name: _rebuild(value, replace) for name, value in kwargs.items()}, moved


def refuse_live_closure(func: Callable[..., Any], request: Request | None) -> None:
    """Refuse live objects in a partial's arguments, in a method's object or in a closure's variables."""
    look = Look(request, takes_uploads=False)
    if isinstance(func, partial):
        look.examine((func.args, func.keywords), lambda: "the partial's argument")
        func = func.func
    if (owner := getattr(func, "__self__", None)) is not None:
        look.examine(owner, lambda: "the method's object")
    code, cells = getattr(func, "__code__", None), getattr(func, "__closure__", None)
    if code is not None and (defaults := func.__defaults__):
        names = code.co_varnames[: code.co_argcount][-len(defaults) :]
        for name, value in zip(names, defaults, strict=True):
            look.examine(value, partial(str, name))
    for name, value in (getattr(func, "__kwdefaults__", None) or {}).items():
        look.examine(value, partial(str, name))
    for name, cell in zip(code.co_freevars, cells, strict=True) if code and cells else ():
        try:
            value = cell.cell_contents
        except ValueError:  # the variable is not bound yet
            continue
        look.examine(value, partial(str, name))


def positional(func: Callable[..., Any], index: int) -> str:
    """Return the name of func's positional argument, or its number."""
    code = getattr(func, "__code__", None)
    if code is not None and index < code.co_argcount:
        return str(code.co_varnames[index])
    return f"argument {index + 1}"


def _rebuild(value: Any, replace: dict[int, Any]) -> Any:
    """Return the value with its uploads replaced; a container without an upload stays the same object."""
    if id(value) in replace:
        return replace[id(value)]
    if type(value) in (list, tuple, set, frozenset):
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
