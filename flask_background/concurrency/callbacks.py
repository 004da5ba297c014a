"""Functions of the app's that our threads have to call: on threads of their own, so that they hold up nobody.

Callbacks of tokens, receivers of signals and the like may take long, hang or raise. A few threads call them;
one more is started while all are busy, up to a bound. They end when there is nothing to call. Under gevent
they have a greenlet of the main thread call the function, for it may take patched locks.
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

# How many callbacks may run at once; the rest waits for one of them to end.
_MOST = 64
# How long a thread stays for the next callback, in seconds.
_LINGER = 1.0
# How long a main thread that computes may keep a callback waiting under gevent, in seconds: the callback may
# be what ends that computation.
_HURRY = 0.25


class _IdleThread:
    """Waits for the next callback. One lock each: CPython's queues may keep one of several for ever."""

    __slots__ = ("call", "latch")

    def __init__(self) -> None:
        self.latch = native.Latch()
        self.call: Callable[[], None] | None = None


class CallbackThreads:
    """Calls functions, each on a thread on which nothing else waits."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._count = 0
        self._idle: list[_IdleThread] = []
        self._waiting: deque[Callable[[], None]] = deque()

    def call(self, function: Callable[[], object], failed: Failed) -> None:
        """Call function soon, and failed with what it raises.

        Where there is no thread to be had, it waits for one of those that are busy, or is called here.
        """
        call = partial(_call, function, failed)
        with self._lock:
            if self._idle:
                idle = self._idle.pop()
                idle.call = call
                idle.latch.open()
                return
            if self._count >= _MOST:
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

    def _run(self, call: Callable[[], None] | None) -> None:
        while call is not None:
            hub.run(call, within=_HURRY)
            call = None  # or an idle thread would keep what it has called
            call = self._next()

    def _next(self) -> Callable[[], None] | None:
        """The next function to call; None if there was none for a while, and this thread is to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            idle = _IdleThread()
            self._idle.append(idle)
        idle.latch.wait(_LINGER)
        with self._lock:
            if idle.call is None:
                self._idle.remove(idle)
                self._count -= 1
            return idle.call


class CallsInOrder:
    """Calls functions one after the other, in the order in which they came, on threads for callbacks."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_busy = False
        self._idle_latches: list[native.Latch] = []

    @property
    def is_busy(self) -> bool:
        """Whether something is left to be called, or runs."""
        return self._is_busy

    def call(self, function: Callable[[], object], failed: Failed) -> None:
        """Call function after those that came before it, and failed with what it raises."""
        with self._lock:
            self._calls.append(partial(_call, function, failed))
            start, self._is_busy = not self._is_busy, True
        if start:
            threads.call(self._run, report)

    def wait(self, timeout: float) -> bool:
        """Wait until nothing is left to be called; False after timeout seconds."""
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
    """Print an error that there is no log for. Raises nothing, whatever the error is."""
    try:
        traceback.print_exception(error)
    except BaseException:
        try:
            print(f"{type(error).__name__}, which cannot be printed", file=sys.stderr)  # noqa: T201
        except BaseException:  # stderr is closed, say
            pass


def _call(function: Callable[[], object], failed: Failed) -> None:
    try:
        function()
    except BaseException as error:
        try:
            failed(error)
        except BaseException as trouble:
            report(trouble)


#: Those of this process.
threads = CallbackThreads()


def _after_fork() -> None:
    global threads
    threads = CallbackThreads()


os.register_at_fork(after_in_child=_after_fork)
