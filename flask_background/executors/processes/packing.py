"""The arguments of a call, packed for a child process. A child trusts its parent, so they are pickled.

Uploads among them stay files of this process until the call is sent; a child opens the same files.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from werkzeug.datastructures import FileStorage, Headers

from flask_background.errors import ArgumentError
from flask_background.payload.arguments import positional

#: An upload: its name in the form, its filename, its headers, and its content or the content's path.
Sent = tuple[str | None, str | None, list[tuple[str, str]], bytes | str]


class PackedArguments(NamedTuple):
    """The arguments of one call. Uploads among them stay files of this process until the call is sent."""

    pickled: bytes
    uploads: Sequence[FileStorage]


def pack(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], uploads: bool = True
) -> PackedArguments:
    """Return the arguments, ready to be sent. Raises ArgumentError, which names the unpicklable one.

    ``uploads``: whether there may be uploads among them, which takes longer.
    """
    try:
        if not uploads:
            return PackedArguments(pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL), ())
        return _pack((args, kwargs))
    except Exception as error:
        named = [(positional(func, index), value) for index, value in enumerate(args)]
        for name, value in [*named, *kwargs.items()]:
            try:
                _pack(value)
            except Exception as wrong:
                raise ArgumentError(
                    f"{name} cannot be sent to a child process ({wrong}): pass plain values, from which the"
                    " item can make what it needs"
                ) from error
        raise ArgumentError(f"the arguments cannot be sent to a child process: {error}") from error


def unpack(pickled: bytes, uploads: Sequence[FileStorage]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments from their packed form, with these uploads."""
    _arriving[:] = uploads
    try:
        args, kwargs = pickle.loads(pickled)
    except (AttributeError, ImportError) as error:
        error.add_note(
            "An argument's class was not found in the child process: define it in a module that can be"
            " imported there, not in a script"
        )
        raise
    finally:
        _arriving.clear()
    return args, kwargs


def send_upload(upload: FileStorage) -> Sent:
    """Return an upload as a child can open it: the path of its open file, or else its content."""
    stream = upload.stream
    content: bytes | str
    try:
        content = f"/proc/{os.getpid()}/fd/{stream.fileno()}"
        # A process whose user was changed after its start, as by gunicorn's --user, gives no access to its
        # files.
        if os.lstat(content).st_uid != os.getuid():
            raise OSError
        stream.flush()
    except (OSError, ValueError, AttributeError):
        stream.seek(0)
        content = stream.read()
        stream.seek(0)
    return upload.name, upload.filename, [*Headers(upload.headers)], content


def receive_upload(sent: Sent) -> FileStorage:
    """Return an upload in the child."""
    name, filename, headers, content = sent
    stream = io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")  # noqa: SIM115
    upload = FileStorage(stream, name=name, headers=Headers(headers))
    upload.filename = filename  # None would be replaced by the path of the file
    return upload


class _Pickler(pickle.Pickler):
    """A pickler that replaces each upload by its number among the uploads sent along."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.uploads: list[FileStorage] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, FileStorage):
            return NotImplemented
        self.uploads.append(value)
        return _arrived, (len(self.uploads) - 1,)


def _pack(value: Any) -> PackedArguments:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return PackedArguments(file.getvalue(), pickler.uploads)


# The uploads that _arrived finds: a child reads one call at a time.
_arriving: list[FileStorage] = []


def _arrived(index: int) -> FileStorage:
    return _arriving[index]
