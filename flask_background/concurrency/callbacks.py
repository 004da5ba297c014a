"""Threads that call functions of the app, so that a slow function blocks none of our other threads.

Callbacks of tokens, receivers of signals and the like may take long, hang or raise. A few threads call them;
while all are busy another one is started, up to a bound. A thread ends when there is nothing to call. Under
gevent the thread has a greenlet of the main thread call the function, because the function may take patched
locks.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial

from flask_background.concurrency import hub, native

Failed = Callable[[BaseException], object]

#: How many callbacks may run at the same time; further callbacks wait until one of them ends.
MOST = 64
# How long a thread waits for the next callback before it ends, in seconds.
_LINGER = 1.0
# How long a busy main thread may delay a callback under gevent, in seconds; the callback may be needed to end
# that computation.
_HURRY = 0.25


class _IdleThread:
    """A thread that waits for the next callback.

    Each has its own lock, because one of several threads that wait on a CPython queue may wait for ever.
    """

    __slots__ = ("call", "latch")

    def __init__(self) -> None:
        self.latch = native.Latch()
        self.call: Callable[[], None] | None = None


class CallbackThreads:
    """Calls each function on a thread that has no other work."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._count = 0
        self._idle: list[_IdleThread] = []
        self._waiting: deque[Callable[[], None]] = deque()
        self._idle_latches: list[native.Latch] = []

    def call(self, function: Callable[[], object], failed: Failed) -> None:
        """Call function soon; if it raises, call failed with the exception.

        If no thread can be started, the function waits for a busy thread, or is called here.
        """
        call = partial(_call, function, failed)
        with self._lock:
            if self._idle:
                idle = self._idle.pop()
                idle.call = call
                idle.latch.open()
                return
            if self._count >= MOST:
                self._waiting.append(call)
                return
            self._count += 1
        try:
            native.start_thread(partial(self._run, call), "background-callbacks", runs_app_code=True)
        except RuntimeError:
            with self._lock:
                self._count -= 1
                others = self._count > len(self._idle)
                if others:
                    self._waiting.append(call)
            if not others:
                call()

    def wait(self, timeout: float) -> bool:
        """Wait until no callback runs or waits for a thread; False after timeout seconds."""
        latch = native.Latch()
        with self._lock:
            if self._count == len(self._idle):
                return True
            self._idle_latches.append(latch)
        return latch.wait(timeout)

    def end_idle(self) -> None:
        """Let the threads end that have nothing to call."""
        with self._lock:
            for idle in self._idle:
                idle.latch.open()

    def _run(self, call: Callable[[], None] | None) -> None:
        while call is not None:
            hub.run(call, within=_HURRY)
            call = None  # otherwise an idle thread would keep its last callback alive
            call = self._next()

    def _next(self) -> Callable[[], None] | None:
        """Return the next function to call, or None if this thread was idle long enough and has to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            idle = _IdleThread()
            self._idle.append(idle)
            latches = self._idle_latches if self._count == len(self._idle) else []
            self._idle_latches = [] if latches else self._idle_latches
        for latch in latches:
            latch.open()
        idle.latch.wait(_LINGER)
        with self._lock:
            if idle.call is None:
                self._idle.remove(idle)
                self._count -= 1
            return idle.call


class CallsInOrder:
    """Calls functions in order, one after the other, on threads for callbacks."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_busy = False
        self._idle_latches: list[native.Latch] = []

    @property
    def is_busy(self) -> bool:
        """Whether a function is waiting or running."""
        return self._is_busy

    def call(self, function: Callable[[], object], failed: Failed) -> None:
        """Call function after all earlier ones; if it raises, call failed with the exception."""
        with self._lock:
            self._calls.append(partial(_call, function, failed))
            start, self._is_busy = not self._is_busy, True
        if start:
            threads.call(self._run, report)

    def wait(self, timeout: float) -> bool:
        """Wait until no function is left to call; return False after timeout seconds."""
        latch = native.Latch()
        with self._lock:
            if not self._is_busy:
                return True
            self._idle_latches.append(latch)
        if latch.wait(timeout):
            return True
        with self._lock:
            if latch in self._idle_latches:
                self._idle_latches.remove(latch)
        return not self._is_busy

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._is_busy = False
                    latches, self._idle_latches = self._idle_latches, []
                    break
                call = self._calls.popleft()
            call()
            del call
        for latch in latches:
            latch.open()


def report(error: BaseException) -> None:
    """Print an error for which there is no log. Raises nothing, whatever the error is."""
    try:
        traceback.print_exception(error)
    except BaseException:
        try:
            print(f"{type(error).__name__}, which cannot be printed", file=sys.stderr)  # noqa: T201
        except BaseException:  # perhaps stderr is closed
            pass


def _call(function: Callable[[], object], failed: Failed) -> None:
    try:
        function()
    except BaseException as error:
        try:
            failed(error)
        except BaseException as trouble:
            report(trouble)


#: The callback threads of this process.
threads = CallbackThreads()


def _after_fork() -> None:
    global threads
    threads = CallbackThreads()


os.register_at_fork(after_in_child=_after_fork)
