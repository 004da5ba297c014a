"""The contract of hosts, and their shared part: watch for the stop, wait for items, keep the deadline.

Three threads have a part in a stop. The *watcher* lives while items exist: it asks the host whether the stop
has begun, and takes the apps through it. The *main thread* calls ``drain`` when the host has done its own
work, and waits there. A host may add a *heart*, which runs no foreign code that could block it.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from flask_background.concurrency import callbacks, native
from flask_background.concurrency.private_names import find_private
from flask_background.errors import Stopping

# Undocumented names of CPython that this module uses: see ``private_names``.
PRIVATE_NAMES = ("threading._register_atexit",)

# How often the watcher looks for the stop, and how long the watcher stays when no item is in flight
# (seconds).
_TICK = 0.05
_LINGER = 5.0
# How long coroutines have for their clean-up once their time is up (seconds).
_CLEANUP = 0.1
# How much longer the watcher has to name the unfinished items, on a busy machine (seconds).
_PATIENCE = 0.25
# How long the stop waits for signal receivers at its end (seconds).
_RECEIVERS_WITHIN = 2.0


# Whether this process was forked while its parent's Python was shutting down, as an item may do in the grace
# period. Python then takes this process for one that shuts down, too, and registers nothing more.
_inherited_shutdown = False


def _register(call: Callable[[], object]) -> None:
    """Have Python call this at its shutdown. Raises RuntimeError if that has begun."""
    (find_private(PRIVATE_NAMES[0]) or atexit.register)(call)


def _after_fork() -> None:
    global _inherited_shutdown
    try:
        _register(_do_nothing)
    except RuntimeError:
        _inherited_shutdown = True


def _do_nothing() -> None:
    pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Drainable(Protocol):
    """The items of one app, as a host sees them: asked to end, waited for, and closed."""

    #: The grace period in seconds, and the time at which it is over (``time.monotonic()``; inf before the
    #: stop).
    @property
    def grace(self) -> float: ...
    @property
    def up_at(self) -> float: ...
    def is_idle(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_handing_over(self) -> bool: ...
    def go_on_stopping(self, began: float, allowance: float, how_to_cut: str) -> None: ...
    def close_if_idle(self) -> bool: ...
    def time_is_up(self) -> object: ...
    def look_after(self) -> None: ...
    def wait_for_receivers(self, timeout: float) -> bool: ...
    def log_error(self, what: str, error: BaseException) -> None: ...
    def log_warning(self, what: str) -> None: ...


class Host(ABC):
    """The environment of the process: says when it stops, and how long it may take."""

    #: The seconds from the stop's beginning in which the host will certainly not kill the process; inf:
    #: never.
    allowance = math.inf
    #: Seconds after which no host of this kind waits for items, whatever their grace period.
    longest_grace = math.inf
    #: What the process is, for people.
    role = "process"
    #: An addition to the log line that says how many items are waited for.
    how_to_cut = ""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.awake = False
        self._lock = native.new_lock()
        self._bell: native.SimpleQueue[None] = native.SimpleQueue()
        self._backends: tuple[weakref.ref[Drainable], ...] = ()
        self._began: float | None = None
        self._cut = False
        self._arrived = False
        self._closed = False
        self._over = native.Latch()
        # Python's shutdown calls these functions before it joins threads, last in, first out.
        # concurrent.futures registers one, too, after which no pool accepts work. That module is imported
        # here first, so its function is called after ours. Without the private name, items are waited for
        # after the app's own threads were joined, and can no longer use pools.
        try:
            importlib.import_module("concurrent.futures.thread")
            _register(self.drain)
        except RuntimeError:
            if not _inherited_shutdown:
                raise Stopping(
                    "nothing was enqueued: Python is shutting down. Enqueue before the main thread has ended"
                ) from None
            from multiprocessing.util import Finalize  # forked processes mostly are multiprocessing's

            Finalize(None, self.drain, exitpriority=0)

    @abstractmethod
    def is_stopping(self) -> bool:
        """Return whether the stop has begun. Called on the watcher's thread."""

    def sustain(self) -> None:
        """Act at every tick while items are in flight and the host stops."""

    def while_serving(self) -> None:
        """Act at every tick of the watcher while items may be in flight and no stop has begun."""

    def while_draining(self) -> None:
        """Act at every tick on the main thread while it waits for items."""

    def interrupted(self) -> None:
        """Act after a signal has raised SystemExit or KeyboardInterrupt in ``drain``."""

    def over(self) -> None:
        """Act when the stop is over and the process is about to end; the watcher's last call."""

    def add(self, backend: Drainable) -> None:
        """Add an app that is about to have its first item in this process."""
        with self._lock:
            self._backends = (*(ref for ref in self._backends if ref()), weakref.ref(backend))
        if self._closed:
            backend.go_on_stopping(time.monotonic(), math.inf, "")
            backend.time_is_up()

    def remove(self, backend: Drainable) -> None:
        """Forget an app that has been stopped by hand, like others. The watcher ends if no app is left."""
        with self._lock:
            self._backends = tuple(
                ref
                for ref in self._backends
                if (other := ref()) is not None and other is not backend and not other.is_stopped()
            )
        self._bell.put(None)

    def wake(self) -> None:
        """Start the watcher if it does not run, because an item was accepted."""
        starts = False
        try:
            with self._lock:
                starts, self.awake = not self.awake, True
            if starts:
                native.start_thread(self._watch, "background-watcher")
        except BaseException as error:
            # The next item, or the wait for the items, tries again. The thread may have started in spite of
            # the exception; two watchers do no harm.
            self.awake = self.awake and not starts
            if not isinstance(error, RuntimeError):  # an exception from a signal, on the main thread
                raise

    def ring(self) -> None:
        """Look for the end of the stop, because an item of a stopping app has ended."""
        self._bell.put(None)

    def cut(self) -> None:
        """End the wait. Safe in a signal handler."""
        self._cut = True
        self._bell.put(None)

    def backends(self) -> list[Drainable]:
        """Return the apps in this process that have had items."""
        return [backend for ref in self._backends if (backend := ref()) is not None]

    def is_idle(self) -> bool:
        """Return whether no app has a queued or running item. Safe in a signal handler."""
        return all(backend.is_idle() for backend in self.backends())

    def drain(self) -> None:
        """Wait, on the main thread, until no item is in flight or the time is up. Raises nothing.

        The host calls this method. Python's own shutdown calls it again, for a host that never did.
        """
        if self.pid != os.getpid():
            return  # the items belong to the parent of this fork
        self._arrived = True
        while not self._closed:
            try:
                if self.is_idle() or self._cut:  # a cut must not depend on the watcher alone
                    self._take_through_stop(time.monotonic())
                    if self._close():
                        break
                self.wake()
                self.ring()
                self.while_draining()
                if self._over.wait(_TICK) or self.is_up(late=_PATIENCE):
                    break
            except (KeyboardInterrupt, SystemExit):
                self.interrupted()
        self._closed = True
        end = time.monotonic() + _RECEIVERS_WITHIN
        for backend in self.backends():
            try:
                if self._cut or not backend.wait_for_receivers(end - time.monotonic()):
                    break
            except (KeyboardInterrupt, SystemExit):
                self.interrupted()
        try:
            # Callbacks of tokens, for example. An item that is left behind may block its callbacks as well.
            if not self._cut and self.is_idle():
                callbacks.threads.wait(end - time.monotonic())
        except (KeyboardInterrupt, SystemExit):
            self.interrupted()

    def _watch(self) -> None:
        # A stop counts from the last moment at which it had not begun, so that no item gets too much time.
        quiet_since = seen = time.monotonic()
        while True:
            try:
                if self._began is None and not self._arrived and not self.is_stopping():
                    seen = time.monotonic()
                    self.while_serving()
                else:
                    self._take_through_stop(seen)
                    if self._arrived and (self._close() if self.is_idle() else self.is_up()):
                        self._over.open()
                        break
                for backend in self.backends():
                    backend.look_after()
            except BaseException as error:
                for backend in self.backends():
                    backend.log_error("The watch over the host failed, and goes on", error)
            now = time.monotonic()
            if self._began is not None or not self.is_idle():
                quiet_since = now
            elif (now - quiet_since > _LINGER or not self.backends()) and self._rests():
                return
            try:
                self._bell.get(timeout=_TICK)
            except native.Empty:
                pass
        self.over()

    def _rests(self) -> bool:
        """Return whether the watcher may end: not if a new item keeps it or has started another one."""
        self.awake = False
        if self.is_idle():
            return True
        with self._lock:
            another, self.awake = self.awake, True
        return another

    def _take_through_stop(self, seen: float) -> None:
        """Take the next step of the stop; an app that was first used after its beginning joins here."""
        with self._lock:
            began = self._began = seen if self._began is None else self._began
        if not self.is_idle():
            self.sustain()
        for backend in self.backends():
            backend.go_on_stopping(began, self.allowance, self.how_to_cut)
            if self._cut:
                backend.time_is_up()

    def _close(self) -> bool:
        return all([backend.close_if_idle() for backend in self.backends()])

    def is_up(self, late: float = 0.0) -> bool:
        """Return whether the grace period of every app has been over for ``late`` seconds.

        No app is up whose items are being handed over, which takes a few seconds at most.
        """
        if any(backend.is_handing_over() for backend in self.backends()):
            return False
        late_ones = (backend for backend in self.backends() if not backend.is_idle())
        up_at = max((backend.up_at for backend in late_ones), default=0.0)
        return time.monotonic() >= up_at + _CLEANUP + late
