"""The app, and a record of its calls of ``submit``, which Flask-Executor itself does not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
from flask import Flask

from .app import create_app, executor


class Call(NamedTuple):
    """A call of ``submit``."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    future: Future[Any]


class Calls(list[Call]):
    """The calls of ``submit``."""

    def run(self) -> None:
        """Wait until the calls have ended."""
        for call in self:
            call.future.exception(20)

    def check(self) -> None:
        """Fail if a call has failed."""
        failed = [call.func.__name__ for call in self if call.future.exception(20)]
        assert not failed, f"{failed} failed"


@pytest.fixture
def app() -> Iterator[Flask]:
    """The app, without threads when the test is over."""
    yield create_app()
    executor.shutdown()


@pytest.fixture(autouse=True)
def calls(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """The calls of the test, none of which may fail."""
    calls, submit = Calls(), executor.submit

    def record(func: Callable[..., Any], *args: Any) -> Future[Any]:
        calls.append(Call(func, args, submit(func, *args)))
        return calls[-1].future

    monkeypatch.setattr(executor, "submit", record)
    yield calls
    calls.check()
