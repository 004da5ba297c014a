"""INT and QUIT in a gunicorn worker: gunicorn handles the first one, later ones end the wait for items.

gunicorn's handler raises SystemExit wherever the main thread is, 0.1 s after the signal. A second signal
would do that once more: in that handler, between gunicorn and the wait for the items, or in that wait. So
handlers of ours stand before gunicorn's own, set by ``signal.signal``. They call gunicorn's handler while no
item is in flight, and for the first signal. Ctrl-C sends a worker two signals, so the second one may come at
any point of the handler of the first one. There it is only counted, or its SystemExit would end that handler
before the first signal is.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.concurrency.stop_signals import may_raise
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
        if _uses_pool(frame):
            native.start_bare_thread(partial(_send_again, number))
        elif not isinstance(host, GunicornHost) or host.pid != os.getpid() or host.is_idle():
            self._gunicorns(number, frame)
        elif not (native.is_patched() or may_raise(frame)):
            # Under gevent, gunicorn's handler raises in a greenlet of its own.
            native.start_bare_thread(partial(_send_again, number))
        else:
            host.press(number)
            if not (host.has_arrived or _is_in(_Handler.__call__.__code__, frame)) and host.quits_now():
                self._gunicorns(number, frame)


def _uses_pool(frame: FrameType | None) -> bool:
    """Return whether the main thread may hold the lock of gthread's pool, which gunicorn's handler takes.

    A thread cannot take that lock twice: the handler would wait for ever. After Ctrl-C the terminal and the
    master both signal the worker, and the second signal may interrupt the handler of the first.
    """
    from concurrent.futures import ThreadPoolExecutor

    if _is_in(ThreadPoolExecutor.submit.__code__, frame):
        return True
    # A view that shuts down a pool of its own may wait there for long, and does not hold that lock.
    return _is_in(ThreadPoolExecutor.shutdown.__code__, frame) and _is_in(_Handler.__call__.__code__, frame)


def _is_in(code: CodeType, frame: FrameType | None) -> bool:
    """Return whether a signal has interrupted this code, or code that it has called."""
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    native.sleep(_AGAIN)
    os.kill(os.getpid(), number)
