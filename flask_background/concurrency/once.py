"""An object that is made once, although several threads may ask for it at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from flask_background.concurrency import native

T = TypeVar("T")


class Once(Generic[T]):
    """Has one thread make an object, while the other threads that ask for it wait.

    No lock is held while the object is made: under gevent ``make`` may switch to another greenlet, which
    would wait for that lock for ever.
    """

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._making: native.Latch | None = None  # opened when the thread that makes the object is done
        #: The object; None until it is made.
        self.made: T | None = None

    def get(self, make: Callable[[], T], within: float) -> T | None:
        """Return the object, which is made by ``make`` if it is not there yet; raise what ``make`` raises.

        Returns None if another thread is making the object, and fails or takes longer than ``within``
        seconds.
        """
        mine = native.Latch()
        with self._lock:
            if self.made is not None:
                return self.made
            other, self._making = self._making, self._making or mine
        if other is not None:
            other.wait(within)
            return self.made
        try:
            self.made = make()
        finally:
            self._making = None
            mine.open()
        return self.made
