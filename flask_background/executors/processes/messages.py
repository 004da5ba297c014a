"""The messages between a process and its children: data, and read as such."""

from __future__ import annotations

import traceback
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.core.status import SUCCEEDED, Outcome, Progress, Status
from flask_background.errors import ItemCancelledError, ItemFailedError, ResultLostError
from flask_background.executors.processes import safe_pickle
from flask_background.executors.processes.packing import Sent

#: The statuses by what is sent for them.
STATUSES = {str(status): status for status in Status}
_SMALL = frozenset((float, bool, NoneType))
# Texts of so many characters, and numbers of this size, are small.
_SMALL_TEXT = 1_000
_SMALL_INT = 1 << 62


class Setup(NamedTuple):
    """The first message to a child. ``max_memory`` is in MiB; ``log_levels`` are the parent's, by logger."""

    location: str
    nice: int
    max_memory: int | None
    log_levels: dict[str, int]


class Call(NamedTuple):
    """A request to call a function. Times are in seconds from now, or ``time.time()``.

    ``reason``: why the item's token has already fired, or None.
    """

    task: str
    executor: str
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
    description: str | None


class TokenFired(NamedTuple):
    """The news that the item's token has fired, for this reason."""

    reason: str
    remaining: float | None


class ProgressReported(NamedTuple):
    """A report of the item's progress."""

    done: float
    total: float | None
    message: str | None


class Logged(NamedTuple):
    """A log record. ``created`` is ``time.time()``; the traceback and the stack may be empty."""

    logger: str
    level: int
    text: str
    trace: str
    stack: str
    created: float
    path: str
    line: int
    function: str
    thread: str


class CancelledSelf(NamedTuple):
    """The news that the item has cancelled itself."""


class Started(NamedTuple):
    """The child's first message: it is ready for calls, or the reason why it is not."""

    trouble: str | None


class RunEnded(NamedTuple):
    """The outcome of a run: the value or the error, pickled as data; for an error also its text.

    ``text`` of an item that has succeeded says why its value is not sent. ``is_spent``: whether the child has
    no memory left for another item. ``value``: a value that JSON holds as it is, and is not pickled.
    """

    status: str
    pickled: bytes | None
    text: str
    trace: str
    is_spent: bool = False
    value: str | int | float | bool | None = None


Message = Setup | Call | TokenFired | ProgressReported | Logged | CancelledSelf | Started | RunEnded


class ChildTraceback(Exception):
    """The cause of an error from a child process: the traceback in the child."""

    def __str__(self) -> str:
        return f"in the child process\n\n{self.args[0]}"


def state_as_tuple(state: RequestState) -> tuple[Any, ...] | None:
    """Return the state without the unpicklable proxy around its values; None for an empty state."""
    return None if state is NO_REQUEST else (*state[:-1], dict(state.values))


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
        if _is_small(value):
            return RunEnded(status, None, "", "", False, value)
        try:
            return RunEnded(status, safe_pickle.dumps(value), "", "")
        except BaseException as wrong:  # whatever pickling raises, the item has succeeded
            return RunEnded(status, None, f"the result cannot be sent from its child process: {wrong!r}", "")
    trace = "".join(traceback.format_exception(error))
    return RunEnded(status, _pickled_error(error), _text_of(error), trace)


def _is_small(value: Any) -> bool:
    """Return whether a value is small, and the same when JSON has been read: most results are."""
    kind: type = type(value)
    if kind is str:
        return len(value) <= _SMALL_TEXT and value.isascii()  # JSON joins two halves of a character
    if kind is int:
        return abs(int(value)) <= _SMALL_INT
    return kind in _SMALL


def outcome_of(ended: RunEnded, name: str) -> Outcome:
    """Return the outcome from its message, whose status is a status; name is the item's."""
    status = STATUSES[ended.status]
    if status is SUCCEEDED:
        if ended.pickled is None and not ended.text:
            return status, ended.value, None
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
