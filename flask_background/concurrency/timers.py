"""Timers: callbacks at a time, on one thread that lives only while a timer is set."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from flask_background.concurrency import native
from flask_background.concurrency.callbacks import Failed, report
from flask_background.concurrency.clock import CLOCK, Clock
from flask_background.concurrency.durations import bounded

# How long the thread stays when no timer is set (seconds), so that frequent timers do not start a thread
# each.
_LINGER = 2.0
# Cancelled timers stay in the heap until their time, unless they are at least this many and the majority.
_MANY = 64
# The longest single sleep of the thread (seconds), because CPython refuses 292 years.
_LONGEST_SLEEP = 3_600.0


class Timer:
    """One callback at one time (``monotonic()`` of the timers' clock)."""

    __slots__ = ("callback", "number", "when")

    def __init__(self, when: float, number: int, callback: Callable[[], None]) -> None:
        self.when = when
        self.number = number
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Timers:
    """A set of timers. Their callbacks have to be quick; an exception that one raises goes to ``failed``."""

    def __init__(self, failed: Failed = report, clock: Clock = CLOCK) -> None:
        self._failed = failed
        self.clock = clock
        self._lock = native.new_lock()
        self._heap: list[Timer] = []
        self._numbers = itertools.count()
        self._cancelled = 0
        self._running = False
        self._closed = False
        self._bell: native.SimpleQueue[None] = native.SimpleQueue()

    def set(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call callback after this many seconds (of any size), unless the timer is cancelled first.

        If no thread can be started now, the next timer or ``have_thread`` tries again.
        """
        timer = Timer(self.clock.monotonic() + bounded(seconds), next(self._numbers), callback)
        with self._lock:
            heapq.heappush(self._heap, timer)
            is_first = self._heap[0] is timer
            running = self._running
        if not running:
            self.have_thread()
        elif is_first:
            self._bell.put(None)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer; a timer that has fired is left alone."""
        with self._lock:
            if timer.callback is None:
                return
            timer.callback = None
            self._cancelled += 1
            if self._heap[0] is timer:
                self._bell.put(None)
            if self._cancelled > max(_MANY, len(self._heap) // 2):
                self._heap = [other for other in self._heap if other.callback is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def fire_due(self) -> None:
        """Call the callbacks that are due on this thread, because the clock was moved."""
        while (callback := self._take_due()) is not None:
            self._call(callback)

    def close(self) -> None:
        """Let the thread end as soon as no timer is set."""
        self._closed = True
        self._bell.put(None)

    def have_thread(self) -> None:
        """Start the thread if a timer is set and no thread runs. Raises nothing; called now and then."""
        if self._running or not self._heap:
            return
        with self._lock:
            start, self._running = not self._running, True
        if start:
            try:
                native.start_thread(self._run, "background-timers")
            except BaseException as error:
                self._running = False
                if not isinstance(error, RuntimeError):  # an exception from a signal, on the main thread
                    raise

    def _run(self) -> None:
        orderly = False
        try:
            self._ring()
            orderly = True
        finally:
            if not orderly:
                self._running = False  # the next call of ``have_thread`` starts another one

    def _ring(self) -> None:
        last = self.clock.monotonic()
        while True:
            callback = self._take_due()
            now = self.clock.monotonic()
            if callback is not None:
                last = now
                self._call(callback)
                continue
            with self._lock:
                if not self._heap and (self._closed or now - last >= _LINGER):
                    self._running = False
                    return
                wait = max(0.0, self._heap[0].when - now) if self._heap else _LINGER
            if wait:
                try:
                    self._bell.get(timeout=min(wait, _LONGEST_SLEEP))
                except native.Empty:
                    pass

    def _take_due(self) -> Callable[[], None] | None:
        """Remove a timer that is due, and return its callback; None if no timer is due."""
        with self._lock:
            while self._heap and self._heap[0].callback is None:
                heapq.heappop(self._heap)
                self._cancelled -= 1
            if not self._heap or self._heap[0].when > self.clock.monotonic():
                return None
            timer = heapq.heappop(self._heap)
            callback, timer.callback = timer.callback, None
            return callback

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except BaseException as error:
            self._failed(error)
