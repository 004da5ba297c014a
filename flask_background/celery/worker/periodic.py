"""A thread of a worker's main process that looks after items, again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.core.events import Events

# The time between two looks, in seconds.
_EVERY = 0.5


class Periodic(ABC):
    """Looks twice a second, whatever a look raises; the log gets one line for each time of trouble."""

    #: The end of the thread's name, and what cannot be done in a time of trouble.
    name: ClassVar[str]
    trouble: ClassVar[str]

    def __init__(self, events: Events) -> None:
        self._events = events
        self._closed, self._ended = native.Latch(), native.Latch()

    @abstractmethod
    def look(self) -> bool:
        """Do what there is to do. Returns whether there is more, so that the next look follows at once."""

    def leave(self) -> None:
        """Leave things to others, after the last look. Raises nothing."""

    def start(self) -> None:
        """Begin, on a thread of its own."""
        native.start_thread(self._run, f"background-{self.name}")

    def close(self, timeout: float) -> bool:
        """End, and wait up to timeout seconds for that; returns whether it has ended."""
        self._closed.open()
        return self._ended.wait(timeout)

    def _run(self) -> None:
        pause, in_trouble = _EVERY, False
        while not self._closed.wait(pause):
            pause = _EVERY
            try:
                if self.look():
                    pause = 0.0
                in_trouble = False
            except Exception as error:
                if not in_trouble:
                    self._events.log_error(
                        f"{self.trouble} could not be looked after; it is tried again", error
                    )
                in_trouble = True
        self.leave()
        self._ended.open()
