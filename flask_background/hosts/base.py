"""The contract of hosts, and what they share: watch for the stop, wait for the items, keep to the time.

Three threads have a part in a stop. The *watcher* lives while items exist: it asks the host whether the stop
has begun, and takes the apps through it. The *main thread* comes to ``drain`` when the host has done its own
work, and waits there. A host may add a *heart*, which runs no foreign code that could hold it up.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import time
import weakref
from abc import ABC, abstractmethod
from typing import Protocol

from flask_background.concurrency import native
from flask_background.concurrency.private_names import find_private
from flask_background.errors import Stopping

# What CPython has, and does not document, and is used here: see ``private_names``.
PRIVATE_NAMES = ("threading._register_atexit",)

# How often the watcher looks for the stop, and how long it stays when no item is in flight (seconds).
_TICK = 0.05
_LINGER = 5.0
# What coroutines get to clean up in once their time is up.
_CLEANUP = 0.1
# What the watcher gets beyond that to name what is left, should the machine be busy.
_PATIENCE = 0.25
# What receivers of signals get when all else is done: they are not waited for any longer.
_RECEIVERS_WITHIN = 2.0


class Drainable(Protocol):
    """The items of one app, as a host sees them: asked to end, waited for, and closed."""

    #: The grace period in seconds, and when it is over (``time.monotonic()``); inf before the stop begins.
    @property
    def grace(self) -> float: ...
    @property
    def up_at(self) -> float: ...
    def is_idle(self) -> bool: ...
    def go_on_stopping(self, began: float, allowance: float, how_to_cut: str) -> None: ...
    def close_if_idle(self) -> bool: ...
    def time_is_up(self) -> object: ...
    def have_threads(self) -> None: ...
    def wait_for_receivers(self, timeout: float) -> bool: ...
    def log_error(self, what: str, error: BaseException) -> None: ...
    def log_warning(self, what: str) -> None: ...


class Host(ABC):
    """What the process lives in: says when it stops, and how long it may take."""

    #: Seconds after the stop's beginning in which the host is sure not to kill; inf: it never does.
    allowance = math.inf
    #: Added to the line that says how many items are waited for.
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
        # Python's own shutdown calls this before it joins threads, last in, first out. concurrent.futures has
        # one too, after which no pool takes work: that is imported, and so registered, before this. Without
        # it items are waited for when the app's own threads have been joined, and cannot use pools any more.
        register = find_private(PRIVATE_NAMES[0]) or atexit.register
        try:
            importlib.import_module("concurrent.futures.thread")
            register(self.drain)
        except RuntimeError:
            raise Stopping(
                "nothing was enqueued: Python is shutting down. Enqueue before the main thread has ended"
            ) from None

    @abstractmethod
    def is_stopping(self) -> bool:
        """Whether the stop has begun. Asked on the watcher's thread."""

    def sustain(self) -> None:
        """Items are in flight while the host stops. Called at every tick."""

    def while_serving(self) -> None:
        """Items may be in flight, and no stop has begun. Called at every tick, on the watcher's thread."""

    def while_draining(self) -> None:
        """The main thread waits for items. Called there, at every tick."""

    def interrupted(self) -> None:
        """A signal has raised SystemExit or KeyboardInterrupt in ``drain``."""

    def over(self) -> None:
        """The stop is over, and the process about to end. Called on the watcher's thread, as its last act."""

    def add(self, backend: Drainable) -> None:
        """An app is about to have its first item here."""
        with self._lock:
            self._backends = (*(ref for ref in self._backends if ref()), weakref.ref(backend))
        if self._closed:
            backend.go_on_stopping(time.monotonic(), math.inf, "")
            backend.time_is_up()

    def wake(self) -> None:
        """An item was accepted, so there is something to watch."""
        with self._lock:
            if self.awake:
                return
            self.awake = True
        try:
            native.start_thread(self._watch, "background-watcher")
        except RuntimeError:
            self.awake = False  # no thread to be had; the next item tries again

    def ring(self) -> None:
        """An item has ended while its app stops: perhaps it was the last one."""
        self._bell.put(None)

    def cut(self) -> None:
        """Wait no longer. Fit for a signal handler."""
        self._cut = True
        self._bell.put(None)

    def backends(self) -> list[Drainable]:
        """The apps in this process, as far as they have had items."""
        return [backend for ref in self._backends if (backend := ref()) is not None]

    def is_idle(self) -> bool:
        """Whether no item is queued or running, in any app. Fit for a signal handler."""
        return all(backend.is_idle() for backend in self.backends())

    def drain(self) -> None:
        """Wait, on the main thread, until no item is in flight or their time is up. Raises nothing.

        Called by the host, and once more by Python's own shutdown, for a host that never came to it.
        """
        if self.pid != os.getpid():
            return  # inherited by a fork: those items are the parent's
        self._arrived = True
        while not self._closed:
            try:
                if self.is_idle():
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

    def _watch(self) -> None:
        # A stop counts from the last moment when it had not begun, so that no item gets too much time.
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
                    backend.have_threads()
            except BaseException as error:
                for backend in self.backends():
                    backend.log_error("The watch over the host failed, and goes on", error)
            now = time.monotonic()
            if self._began is not None or not self.is_idle():
                quiet_since = now
            elif now - quiet_since > _LINGER and self._rests():
                return
            try:
                self._bell.get(timeout=_TICK)
            except native.Empty:
                pass
        self.over()

    def _rests(self) -> bool:
        """Whether the watcher may end: an item that came meanwhile keeps it, or has started another."""
        self.awake = False
        if self.is_idle():
            return True
        with self._lock:
            another, self.awake = self.awake, True
        return another

    def _take_through_stop(self, seen: float) -> None:
        """Do what is due now; an app that was first used after the stop began joins here."""
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
        """Whether the grace period of every app is over, by so many seconds."""
        late_ones = (backend for backend in self.backends() if not backend.is_idle())
        up_at = max((backend.up_at for backend in late_ones), default=0.0)
        return time.monotonic() >= up_at + _CLEANUP + late
