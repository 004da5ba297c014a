"""INT and QUIT in a gunicorn worker: gunicorn handles the first one, later ones end the wait for items.

gunicorn's handler raises SystemExit wherever the main thread is, 0.1 s after the signal. A second signal
would do that once more: in that handler, between gunicorn and the wait for the items, or in that wait. So
handlers of ours stand before gunicorn's own, set by ``signal.signal``. They call gunicorn's handler while no
item is in flight, and for the first signal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.hosts.base import Host
from flask_background.hosts.gunicorn import GunicornHost

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

# When a signal is delivered again that came at a moment at which it cannot be handled (seconds).
_AGAIN = 0.01


def hear_quit(worker: Worker, host: Callable[[], Host | None]) -> None:
    """Handle INT and QUIT while items are in flight. Has to be called in the main thread.

    Handlers that are not gunicorn's are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGQUIT):
        gunicorns: Any = signal.getsignal(number)
        if getattr(gunicorns, "__self__", None) is worker:
            signal.signal(number, _Handler(gunicorns, host))


class _Handler:
    """The handler of one signal."""

    def __init__(
        self, gunicorns: Callable[[int, FrameType | None], object], host: Callable[[], Host | None]
    ) -> None:
        self._gunicorns = gunicorns
        self._host = host

    def __call__(self, number: int, frame: FrameType | None) -> None:
        host = self._host()
        if not isinstance(host, GunicornHost) or host.pid != os.getpid() or host.is_idle():
            self._gunicorns(number, frame)
        elif _submits(frame):
            native.start_bare_thread(partial(_send_again, number))
        elif host.press(number) and not host.has_arrived:
            self._gunicorns(number, frame)


def _submits(frame: FrameType | None) -> bool:
    """Return whether the main thread may hold the lock of gthread's pool, which gunicorn's handler takes.

    A thread cannot take that lock twice: the handler would wait for ever.
    """
    from concurrent.futures import ThreadPoolExecutor

    while frame is not None:
        if frame.f_code is ThreadPoolExecutor.submit.__code__:
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    native.sleep(_AGAIN)
    os.kill(os.getpid(), number)
