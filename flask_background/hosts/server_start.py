"""The start of a web server that is not gunicorn, at which an app looks for items that other processes left.

Other servers call no hook when they have loaded the app and serve. So a thread waits for both, in a process
that a server's command started, and ends then. Tasks, and extensions that they use, are often set up after
``init_app``, so the app counts as loaded when the code that called ``init_app`` has returned to the server.

uWSGI loads an app before it forks its workers, where no thread may start. It has a hook for the time after.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType
from typing import Any, Protocol

from flask_background.concurrency import native
from flask_background.errors import Stopping
from flask_background.hosts import web_servers

# How often the thread looks whether the process serves, and how long it waits for that (seconds).
_LOOK = 0.1
_GIVE_UP = 300.0


# Packages and modules whose code is on the stack of many threads. The number of a thread that has loaded an
# app and ended may be another thread's.
_EVERYWHERE = ("flask_background", "threading")


class Starter(Protocol):
    """An app that acts when the server that it was loaded for serves."""

    def server_started(self) -> None: ...


class _Load:
    """The code that loads an app, on its thread: made in that code, and over when the code has returned."""

    def __init__(self) -> None:
        self._thread = native.get_ident()
        self._codes: set[CodeType] = set()
        for frame in _frames(self._thread):
            module = str(frame.f_globals.get("__name__", ""))
            package = module.partition(".")[0]
            is_script = module == "__main__" and frame.f_code.co_name == "<module>"
            if is_script or not web_servers.LOADERS.isdisjoint((module, package)):
                break  # the server's own code begins here, or that of its script
            if package not in _EVERYWHERE:
                self._codes.add(frame.f_code)

    def is_over(self) -> bool:
        """Return whether the thread has left that code."""
        return all(frame.f_code not in self._codes for frame in _frames(self._thread))


def _frames(thread: int) -> Iterator[FrameType]:
    """Yield the frames of a thread, the innermost first."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


_lock = native.new_lock()
_loads: weakref.WeakKeyDictionary[Starter, _Load] = weakref.WeakKeyDictionary()
# Whether the thread runs; whether this process has had an app; whether its parent had one when it was forked.
_waits = False
_had_app = False
_is_copy = False


def tell_when_serving(starter: Starter, *, serves: bool) -> None:
    """Call ``starter.server_started()``, on a thread, as soon as a web server in this process serves.

    ``serves``: whether the caller knows that this process is about to serve. Otherwise nothing happens in a
    process that no known server started, nor in a forked copy of a process that had an app.
    """
    global _had_app
    is_first, _had_app = not _had_app, True
    uwsgi: Any = sys.modules.get("uwsgi")
    if _is_copy or not (serves or web_servers.is_of_server() or web_servers.is_uwsgi(uwsgi)):
        return
    with _lock:
        _loads[starter] = _Load()
    if not web_servers.is_uwsgi(uwsgi) or uwsgi.worker_id() > 0:
        _wait()
    elif is_first:
        _hook_fork(uwsgi)


def _hook_fork(uwsgi: Any) -> None:
    """Wait in each worker that uWSGI forks. uWSGI calls the hook without a fork, too, if it has no master."""
    users = getattr(uwsgi, "post_fork_hook", None)

    def post_fork_hook() -> None:
        if users is not None:
            users()
        if uwsgi.worker_id() > 0:  # otherwise a mule or the spooler
            _wait()

    uwsgi.post_fork_hook = post_fork_hook


def _wait() -> None:
    global _waits
    with _lock:
        if _waits:
            return
        _waits = True
    try:
        native.start_bare_thread(_run)  # gevent may patch the process meanwhile
    except RuntimeError:
        _waits = False  # no thread could be started: the first request starts the app


def _run() -> None:
    global _waits
    end = time.monotonic() + _GIVE_UP
    with suppress(RuntimeError):  # no thread can be started: the process ends
        while time.monotonic() < end:
            native.sleep(_LOOK)
            if _tell_loaded():
                return
    _waits = False


def _tell_loaded() -> bool:
    """Tell the apps that are loaded, if the process serves; return whether no app is left to tell."""
    global _waits
    with _lock:
        if not _loads:
            _waits = False
            return True
        loaded = [starter for starter, load in _loads.items() if load.is_over()]
    if loaded and web_servers.listens():
        with _lock:
            for starter in loaded:
                _loads.pop(starter, None)
        native.start_thread(partial(_tell, loaded), "background-start", runs_app_code=True)
    return False


def _tell(starters: list[Starter]) -> None:
    with suppress(Stopping):  # the process ends
        for starter in starters:
            starter.server_started()


def _after_fork() -> None:
    global _lock, _waits, _is_copy
    _lock = native.new_lock()  # another thread of the parent may have held it
    _waits = False
    _is_copy = _had_app


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
