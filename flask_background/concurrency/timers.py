"""Calls things back at their time, on one thread that lives only while something is due."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

from flask_background.concurrency import native

# How long the thread stays when nothing is due, so that a steady trickle does not start one each.
_LINGER = 2.0
# A cancelled alarm stays in the heap until its time, unless they have become this many and the most of it.
_MANY = 64


class Timer:
    """One callback at one time (``time.monotonic()``)."""

    __slots__ = ("callback", "number", "when")

    def __init__(self, when: float, number: int, callback: Callable[[], None]) -> None:
        self.when = when
        self.number = number
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Timers:
    """A set of alarms. Their callbacks have to be quick, and must not raise."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._heap: list[Timer] = []
        self._numbers = itertools.count()
        self._cancelled = 0
        self._running = False
        self._bell: native.SimpleQueue[None] = native.SimpleQueue()

    def set(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call callback in so many seconds, unless the alarm is cancelled before."""
        alarm = Timer(time.monotonic() + seconds, next(self._numbers), callback)
        with self._lock:
            heapq.heappush(self._heap, alarm)
            is_first = self._heap[0] is alarm
            start, self._running = not self._running, True
        if start:
            native.start_thread(self._run, "background-alarms")
        elif is_first:
            self._bell.put(None)
        return alarm

    def cancel(self, alarm: Timer) -> None:
        """Forget an alarm; one that has been is left alone."""
        with self._lock:
            if alarm.callback is None:
                return
            alarm.callback = None
            self._cancelled += 1
            if self._heap[0] is alarm:
                self._bell.put(None)
            if self._cancelled > max(_MANY, len(self._heap) // 2):
                self._heap = [other for other in self._heap if other.callback is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                callback = None
                while self._heap and self._heap[0].callback is None:
                    heapq.heappop(self._heap)
                    self._cancelled -= 1
                if self._heap and self._heap[0].when <= now:
                    alarm = heapq.heappop(self._heap)
                    callback, alarm.callback = alarm.callback, None
                    last = now
                elif not self._heap and now - last >= _LINGER:
                    self._running = False
                    return
                wait = max(0.0, self._heap[0].when - now) if self._heap else _LINGER
            if callback is not None:
                callback()
            elif wait:
                try:
                    self._bell.get(timeout=wait)
                except native.Empty:
                    pass
