"""An object that is made once, although several threads ask for it at the same time."""

from __future__ import annotations

import threading

import pytest

from flask_background.concurrency.once import Once

from ..helpers import BOUND


class Maker:
    """Makes an object when its gate is opened, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.count = 0
        self._error = error

    def __call__(self) -> object:
        self.count += 1
        self.begun.set()
        assert self.gate.wait(BOUND)
        if self._error is not None:
            raise self._error
        return object()


def ask(once: Once[object], make: Maker, answers: list[object]) -> threading.Thread:
    """Start a thread that asks for the object, and keeps what it gets."""

    def get() -> None:
        try:
            answers.append(once.get(make, BOUND))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    return thread


def test_many_threads() -> None:
    """The object is made once, and every thread that asked for it gets it."""
    once: Once[object] = Once()
    make, answers = Maker(), list[object]()
    threads = [ask(once, make, answers) for _ in range(4)]
    assert make.begun.wait(BOUND)
    assert once.made is None
    make.gate.set()
    for thread in threads:
        thread.join(BOUND)
    assert answers == [once.made] * 4
    assert once.get(make, 0.0) is once.made
    assert make.count == 1


def test_failure() -> None:
    """An error of ``make`` comes out where it was called; the next thread that asks tries again."""
    once: Once[object] = Once()
    make = Maker(OSError("locked"))
    make.gate.set()
    with pytest.raises(OSError, match="locked"):
        once.get(make, BOUND)
    assert once.made is None
    again = Maker()
    again.gate.set()
    assert once.get(again, BOUND) is once.made is not None


def test_failure_of_another_thread() -> None:
    """A thread that waited for one that failed gets None."""
    once: Once[object] = Once()
    make, answers = Maker(OSError("locked")), list[object]()
    thread = ask(once, make, answers)
    assert make.begun.wait(BOUND)
    threading.Timer(0.05, make.gate.set).start()
    assert once.get(make, BOUND) is None
    thread.join(BOUND)
    assert isinstance(answers[0], OSError)


def test_waiting_no_longer() -> None:
    """A thread that has waited long enough for another thread gets None."""
    once: Once[object] = Once()
    make, answers = Maker(), list[object]()
    thread = ask(once, make, answers)
    assert make.begun.wait(BOUND)
    assert once.get(make, 0.01) is None
    make.gate.set()
    thread.join(BOUND)
    assert answers == [once.made]
