"""The host of an ordinary process: a script, ``flask run``, waitress. Python's shutdown waits for items.

TERM and HUP would end such a process at once. While items are in flight they end the process as Ctrl-C does:
by an exception on the main thread, after which the shutdown waits for the items.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from flask_background.concurrency import native
from flask_background.concurrency.stop_signals import may_raise
from flask_background.hosts.base import Drainable, Host

_HEARD = (signal.SIGTERM, signal.SIGHUP)
# Signals less than this apart (seconds) are one stop: a shell or systemd sends HUP with TERM, and a parent
# may forward signals that its children got, too.
_ONE_STOP = 1.0
# How long the process may take to end when items are over (seconds). Python joins the app's own threads
# without limit, so a thread that never ends would keep alive a process that TERM was to end.
_END_WITHIN = 5.0
# How long items are waited for under Werkzeug's reloader, where somebody waits for new code (seconds). After
# Ctrl-C the reloader kills the process within a fraction of a second in any case.
_RELOADER_GRACE = 2.0


class ProcessHost(Host):
    """The host of a process that ends with its main thread, by TERM, HUP or Ctrl-C, and has no time limit."""

    how_to_cut = "; Ctrl-C ends the wait"

    def __init__(self) -> None:
        super().__init__()
        if os.environ.get("WERKZEUG_RUN_MAIN") == "true":
            self.longest_grace = _RELOADER_GRACE
            self.how_to_cut = "; the reloader may end this process sooner"
        self._stopped_by: int | None = None
        self._heard_at = 0.0
        self._heard_in_vain: int | None = None

    def add(self, backend: Drainable) -> None:
        super().add(backend)
        uwsgi = sys.modules.get("uwsgi")
        if uwsgi is not None and not getattr(uwsgi, "has_threads", True):
            backend.log_warning(
                "uWSGI runs this process without threads, and items stand still between requests: start uWSGI"
                " with enable-threads = true"
            )

    def is_stopping(self) -> bool:
        number, self._heard_in_vain = self._heard_in_vain, None
        if number is not None:
            os.kill(os.getpid(), number)
        return self._stopped_by is not None

    def is_concerned(self) -> bool:
        """Return whether a signal must not end the process at once: items are in flight, or it is an echo."""
        return not self.is_idle() or self._is_echo()

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle TERM or HUP: the first one begins the stop, the next one ends the wait for items."""
        if self._is_echo():
            return
        raises = not self._arrived
        if raises and not may_raise(frame):
            raises = False
            if self._stopped_by is None:
                # An item would be accepted and waited for, but no thread would run it. The watcher sends the
                # signal again: the item that is about to be accepted wakes the watcher.
                self._heard_in_vain = number
                self.ring()
                return
        is_first = self._stopped_by is None
        self._heard_at = time.monotonic()  # before the rest, because the echo may come just here
        if is_first:
            self._stopped_by = number
        else:
            self.cut()
        if raises:
            raise SystemExit(128 + number)

    def _is_echo(self) -> bool:
        return self._stopped_by is not None and time.monotonic() - self._heard_at < _ONE_STOP

    def interrupted(self) -> None:
        self.cut()

    def over(self) -> None:
        if self._stopped_by is not None:
            native.sleep(_END_WITHIN)
            os._exit(128 + self._stopped_by)


def listen_for_stop(host: Callable[[], Host | None]) -> None:
    """Make TERM and HUP end the process like Ctrl-C while items are in flight, and as before otherwise.

    Nothing changes if other code handles these signals, or on another thread than the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        current = host()
        if isinstance(current, ProcessHost) and current.pid == os.getpid() and current.is_concerned():
            current.hear(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(
                128 + number
            )  # the first process of a container: the kernel does not give it such a signal

    for number in _HEARD:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, on_signal)
