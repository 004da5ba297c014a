"""A process of its own: a script, ``flask run``, waitress. Waits for items when Python shuts down."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from flask_background.hosts.base import Host

# TERM must not raise in the middle of these: an item would be accepted, waited for, and given to no thread.
# By their names, for the journal is not imported where nobody uses it.
_DELICATE = {
    "LocalBackend.accept",
    "LocalBackend.release",
    "LocalBackend.take",
    "Intake.accept",
    "Intake.release",
}
# Save in the waits that these begin: they may last.
_PATIENT = {"Admission.admit", "WorkItem.wait"}
# When TERM is heard again that came in such a moment (seconds).
_AGAIN = 0.01


class ProcessHost(Host):
    """A process that ends with its main thread, or by TERM or Ctrl-C. Nothing limits how long it takes."""

    how_to_cut = "; Ctrl-C ends the wait"

    def __init__(self) -> None:
        super().__init__()
        self._announced = False

    def is_stopping(self) -> bool:
        return self._announced

    def hear_term(self) -> None:
        """TERM has come: end as by Ctrl-C, unless that is under way."""
        self._announced = True
        if not self._arrived:
            raise SystemExit(128 + signal.SIGTERM)

    def interrupted(self) -> None:
        self.cut()


def listen_for_term(host: Callable[[], Host | None]) -> None:
    """Make TERM end the process like Ctrl-C does while items are in flight, and as ever when there are none.

    Only where nobody else handles it, and on the main thread, which alone may.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def on_term(signum: int, frame: FrameType | None) -> None:
        current = host()
        if isinstance(current, ProcessHost) and current.pid == os.getpid() and not current.is_idle():
            if _is_delicate(frame):
                _thread.start_new_thread(
                    _send_again, (signum,)
                )  # no Thread: that has locks, perhaps held here
            else:
                current.hear_term()
        else:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, on_term)


def _is_delicate(frame: FrameType | None) -> bool:
    waits = False
    while frame is not None:
        name = frame.f_code.co_qualname
        if waits and name in _PATIENT:
            return False
        if name in _DELICATE:
            return True
        waits = name == "Latch.wait"
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(_AGAIN)
    os.kill(os.getpid(), number)
