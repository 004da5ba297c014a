"""Items that raise very odd errors end, once, and their executor runs others."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status, signals
from flask_background.core import odd_errors
from flask_background.core.retry import RetryPolicy
from flask_background.payload.outcomes import error_as_data, error_of

from ..helpers import BOUND, MAX_BYTES, Site, receiving

pytestmark = pytest.mark.process  # half of the items are in a journal, on disk


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception as a frozen dataclass, which takes no notes."""

    code: int = 3


class Slotted(Exception):
    """An error with slots, which can take no attribute."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(name)


class NoText(RuntimeError):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class TextExits(Exception):
    """The text of this error raises SystemExit."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class TextIsNone(Exception):
    """The text of this error is not a string."""

    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class NoNotes(Exception):
    """An error that has no notes and takes none."""

    __notes__ = None  # type: ignore[assignment]

    def add_note(self, note: str, /) -> None:
        """Take no note."""
        raise KeyboardInterrupt("no notes")


class Incomparable(Exception):
    """Neither equal nor hashable."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("eq")

    __hash__ = None  # type: ignore[assignment]


class NoClass(Exception):
    """An error whose ``__class__`` raises."""

    @property
    def __class__(self) -> Any:
        raise ValueError("class")


class NoTrace(Exception):
    """An error whose traceback and cause can be neither read nor set."""

    @property
    def __traceback__(self) -> Any:
        raise ValueError("traceback")

    @__traceback__.setter
    def __traceback__(self, value: object) -> None:
        raise ValueError("traceback")

    @property
    def __cause__(self) -> Any:
        raise ValueError("cause")

    @__cause__.setter
    def __cause__(self, value: object) -> None:
        raise ValueError("cause")


class BadGroup(ExceptionGroup[Exception]):
    """A group whose members cannot be read."""

    @property
    def exceptions(self) -> Any:
        """Nothing to see."""
        raise SystemExit("exceptions")


class OddGroup(ExceptionGroup[Exception]):
    """A group with members that are no exceptions."""

    @property
    def exceptions(self) -> Any:
        """A mixed bag."""
        return (None, 42, Frozen(), self)


class Anything(type):
    """A metaclass whose instance check raises."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise ValueError("instance")


def odd_syntax() -> SyntaxError:
    """A syntax error that cannot be printed."""
    error = SyntaxError("x")
    error.text, error.lineno = 5, "a"  # type: ignore[assignment]
    return error


def long_chain() -> Exception:
    """An error with very many causes."""
    error = ValueError(0)
    for number in range(3_000):
        following = ValueError(number)
        following.__cause__, error = error, following
    return error


def circle() -> Exception:
    """An error that is its own cause's cause."""
    error, cause = ValueError("error"), KeyError("cause")
    error.__cause__, cause.__cause__ = cause, error
    return error


ODD: dict[str, Callable[[], BaseException]] = {
    kind.__name__: kind for kind in (Frozen, Slotted, NoText, TextExits, TextIsNone, NoNotes, Incomparable)
}
ODD |= {kind.__name__: kind for kind in (NoClass, NoTrace, MemoryError, RecursionError, StopIteration)}
ODD |= {
    kind.__name__: kind for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
}
ODD |= {
    "BadGroup": lambda: BadGroup("bad", [Frozen()]),
    "OddGroup": lambda: OddGroup("odd", [Frozen()]),
    "group of odd ones": lambda: BaseExceptionGroup(
        "g", [NoText(), TextExits(), NoTrace(), KeyboardInterrupt()]
    ),
    "odd syntax error": odd_syntax,
    "long chain": long_chain,
    "circle": circle,
}
everything = pytest.mark.parametrize("make", ODD.values(), ids=ODD)


@everything
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
@pytest.mark.parametrize("kind", ["function", "coroutine", "future"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_item_ends(
    make_site: Callable[..., Site],
    tmp_path: Path,
    make: Callable[[], BaseException],
    durable: bool,
    kind: str,
    attempts: int,
) -> None:
    """An item that raises an odd error, in any way, ends once, and the executor runs the next one."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_JOURNAL=tmp_path / "journal")
    import concurrent.futures

    def function() -> None:
        raise make()

    async def coroutine() -> None:
        raise make()

    def future() -> concurrent.futures.Future[None]:
        made = concurrent.futures.Future[None]()
        made.set_exception(make())
        return made

    func: Callable[..., Any] = {"function": function, "coroutine": coroutine, "future": future}[kind]
    options: dict[str, Any] = {"max_attempts": attempts, "backoff": 0.01, "retry_on": (BaseException,)}
    task = site.background.task(name="shop.odd", durable=durable, **options)(func)
    with receiving(signals.item_finished, site.app) as received:
        item = task.enqueue()
        assert item.wait(BOUND), item.status
        assert item.status is Status.FAILED
        assert item.exception(0) is not None
        after = site.background.task(name="shop.after")(asyncio.sleep if kind == "coroutine" else abs)
        assert after.enqueue(0).wait(BOUND)
        assert site.background.wait_idle(BOUND)
    assert sum(values["item"].id == item.id for values in received) == 1


@everything
def test_as_data(make: Callable[[], BaseException]) -> None:
    """Every error can be stored as text, and read again."""
    try:
        raise make()
    except BaseException as error:
        raised = error
    in_thread: list[str] = []
    thread = threading.Thread(target=lambda: in_thread.append(error_as_data(raised, MAX_BYTES)))
    thread.start()
    thread.join(BOUND)
    assert type(raised).__name__ in str(error_of(in_thread[0], "item 1"))


@everything
def test_frames_go(make: Callable[[], BaseException]) -> None:
    """Letting the frames of an error go raises nothing."""
    done: list[bool] = []
    thread = threading.Thread(target=lambda: (odd_errors.let_frames_go(make()), done.append(True)))
    thread.start()
    thread.join(BOUND)
    assert done == [True]


def test_signals_come_through() -> None:
    """SystemExit and KeyboardInterrupt on the main thread may come from a signal, and are raised."""
    for error in (SystemExit, KeyboardInterrupt):
        with pytest.raises(error), odd_errors.best_effort():
            raise error
    with odd_errors.best_effort():
        raise ValueError


def test_retry_on_what_cannot_be_told() -> None:
    """An error class in retry_on whose instance check raises causes no retry."""
    kind = Anything("Kind", (Exception,), {})
    policy = RetryPolicy(max_attempts=3, retry_on=(kind,))  # type: ignore[arg-type]
    assert policy.delay_after(1, ValueError()) is None


@pytest.mark.parametrize("trouble", [Frozen, NoText, TextExits, SystemExit])
def test_backoff_raises(make_site: Callable[..., Site], trouble: type[BaseException]) -> None:
    """The default backoff replaces a backoff function that raises an odd error."""
    site = make_site(BACKGROUND_WORKERS=1)

    def backoff(attempt: int, error: BaseException) -> float:
        raise trouble

    def fail() -> None:
        raise Frozen(1)

    item = site.background.task(max_attempts=2, backoff=backoff)(fail).enqueue()
    assert item.wait(BOUND)
    assert item.attempt == 2


class Wild(logging.Handler):
    """A log handler that raises its errors."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.raised = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        self.raised += 1
        raise self.error("log")


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, Frozen])
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("attempts", [1, 2])
def test_log_raises(
    make_site: Callable[..., Site],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    error: type[BaseException],
    durable: bool,
    attempts: int,
) -> None:
    """An item whose outcome cannot be logged ends, and its thread runs the next one."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_JOURNAL=tmp_path / "journal")
    site.backend  # noqa: B018  - opened while the log still works
    handler = Wild(error)
    log = site.app.logger.getChild("background")
    log.addHandler(handler)
    try:
        fail = site.background.task(name="shop.fail", durable=durable, max_attempts=attempts, backoff=0.01)(
            lambda: 1 / 0
        )
        item = fail.enqueue()
        assert item.wait(BOUND)
        assert item.status is Status.FAILED
        assert site.background.enqueue(abs, -1).result(BOUND) == 1
        assert site.background.wait_idle(BOUND)
    finally:
        log.removeHandler(handler)
    assert handler.raised >= attempts
    assert error.__name__ in capfd.readouterr().err


def test_stderr_is_closed(make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """An item ends even if neither the log nor stderr can take its error."""
    site = make_site(BACKGROUND_WORKERS=1)
    handler = Wild(OSError)
    site.backend.events.log.addHandler(handler)

    class Closed:
        def write(self, text: str) -> None:
            raise ValueError("I/O operation on closed file")

        flush = write

    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Closed())
            items = [site.background.enqueue(lambda: 1 / 0) for _ in range(3)]
            for item in items:
                assert item.wait(BOUND)
    finally:
        site.backend.events.log.removeHandler(handler)


def test_trace_of() -> None:
    """The traceback of an error is as Python prints it; one that cannot be printed becomes one line."""
    error = ValueError("plain")
    assert odd_errors.trace_of(error) == "".join(traceback.format_exception(error))
    assert "SyntaxError" in odd_errors.trace_of(odd_syntax())
