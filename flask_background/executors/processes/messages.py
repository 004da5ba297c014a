"""The messages between a process and its children: calls with arguments, and outcomes.

Arguments are pickled: a child trusts its parent. Outcomes are pickled as data, and read as such.
"""

from __future__ import annotations

import io
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from werkzeug.datastructures import FileStorage, Headers

from flask_background.core.request_state import RequestState
from flask_background.core.status import Outcome, Progress, Status
from flask_background.errors import ArgumentError, ItemCancelledError, ItemFailedError, ResultLostError
from flask_background.executors.processes import safe_pickle
from flask_background.payload.arguments import positional

#: An upload: its name in the form, its filename, its headers, and its content or the content's path.
Sent = tuple[str | None, str | None, list[tuple[str, str]], bytes | str]


class PackedArguments(NamedTuple):
    """The arguments of one call. Uploads among them stay files of this process until the call is sent."""

    pickled: bytes
    uploads: Sequence[FileStorage]


class Setup(NamedTuple):
    """The first message to a child. ``max_memory`` is in MiB."""

    location: str
    nice: int
    max_memory: int | None


class Call(NamedTuple):
    """A request to call a function. Times are in seconds from now, or ``time.time()``.

    ``reason``: why the item's token has already fired, or None.
    """

    task: str
    item_id: str
    attempt: int
    enqueued: float
    started: float
    state: tuple[Any, ...] | None
    timeout: float | None
    remaining: float | None
    reason: str | None
    pickled: bytes
    uploads: list[Sent]


class TokenFired(NamedTuple):
    """The news that the item's token has fired, for this reason."""

    reason: str
    remaining: float | None


class ProgressReported(NamedTuple):
    """A report of the item's progress."""

    done: float
    total: float | None
    message: str | None


class CancelledSelf(NamedTuple):
    """The news that the item has cancelled itself."""


class Started(NamedTuple):
    """The child's first message: it is ready for calls, or the reason why it is not."""

    trouble: str | None


class RunEnded(NamedTuple):
    """The outcome of a run: the value or the error, pickled as data; for an error also its text.

    ``is_spent``: whether the child has no memory left for another item.
    """

    status: str
    pickled: bytes | None
    text: str
    trace: str
    is_spent: bool = False


Message = Setup | Call | TokenFired | ProgressReported | CancelledSelf | Started | RunEnded


class ChildTraceback(Exception):
    """The cause of an error from a child process: the traceback in the child."""

    def __str__(self) -> str:
        return f"in the child process\n\n{self.args[0]}"


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


def send(upload: FileStorage) -> Sent:
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


def receive(sent: Sent) -> FileStorage:
    """Return an upload in the child."""
    name, filename, headers, content = sent
    stream = io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")  # noqa: SIM115
    upload = FileStorage(stream, name=name, headers=Headers(headers))
    upload.filename = filename  # None would be replaced by the path of the file
    return upload


def state_as_tuple(state: RequestState) -> tuple[Any, ...] | None:
    """Return the state without the unpicklable proxy around its values; None outside a request."""
    return (*state[:-1], dict(state.values)) if state else None


def state_of(values: tuple[Any, ...] | None) -> RequestState | None:
    """Return the state from its tuple."""
    return None if values is None else RequestState._make((*values[:-1], MappingProxyType(values[-1])))


def progress_as_data(progress: Progress) -> Progress:
    """Return a progress whose numbers are Python's own, and whose message is a plain string."""
    done, total, message = progress
    return Progress(
        done if type(done) is int else float(done),
        total if total is None or type(total) is int else float(total),
        None if message is None else str(message),
    )


def end(outcome: Outcome) -> RunEnded:
    """Return an outcome, ready to be sent."""
    status, value, error = outcome
    if error is None:
        try:
            return RunEnded(status, safe_pickle.dumps(value), "", "")
        except BaseException as wrong:  # whatever pickling raises, the item has succeeded
            return RunEnded(status, None, f"the result cannot be sent from its child process: {wrong!r}", "")
    trace = "".join(traceback.format_exception(error))
    return RunEnded(status, _pickled_error(error), _text_of(error), trace)


def outcome_of(ended: RunEnded, name: str) -> Outcome:
    """Return the outcome from its message; name is the item's."""
    status = Status(ended.status)
    if status is Status.SUCCEEDED:
        lost = ResultLostError(f"{name}: {ended.text}")
        if ended.pickled is not None:
            try:
                return status, safe_pickle.loads(ended.pickled), None
            except Exception as wrong:
                lost = ResultLostError(f"{name}: the result cannot be read in this process: {wrong}")
        return status, lost, lost
    try:
        assert ended.pickled is not None
        error = safe_pickle.loads(ended.pickled)
        assert isinstance(error, BaseException)
    except Exception:
        error = ItemFailedError(f"{name} failed with {ended.text}")
    if status is Status.FAILED:
        error.__cause__ = ChildTraceback(ended.trace)
    return status, None, error


def _pickled_error(error: BaseException) -> bytes | None:
    """Return an error, pickled; None if it cannot be restored, as some errors cannot."""
    if isinstance(error, ItemCancelledError):
        error.token = None  # another item's token, which means nothing in another process
    try:
        pickled = safe_pickle.dumps(error)
        safe_pickle.loads(pickled)
    except BaseException:
        return None
    return pickled


def _text_of(error: BaseException) -> str:
    kind = type(error)
    try:
        return f"{kind.__module__}.{kind.__qualname__}: {error}"
    except Exception:
        return f"{kind.__module__}.{kind.__qualname__}, whose text raises"


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
