"""Calls from native threads into gevent's hub of the main thread, which serves the requests.

Only gevent's public interface is used. ``loop.run_callback_threadsafe`` wakes a sleeping hub at once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native

if TYPE_CHECKING:
    from gevent.hub import Hub

_main_hub: Hub | None = None
# Whether the main thread did not take the last call in time, and has taken no call since.
_is_held_up = False


def remember_main_hub() -> None:
    """Store the hub of the main thread, if this is the main thread and gevent has patched the process."""
    global _main_hub
    if not native.is_patched() or native.is_own_thread():
        return
    hub: Hub = importlib.import_module("gevent").get_hub()
    if hub.main_hub:
        _main_hub = hub


def main_hub() -> Hub:
    """Return the main thread's hub. Raises RuntimeError on another thread if the hub is not known yet."""
    if _main_hub is None:
        remember_main_hub()
    if _main_hub is None:
        raise RuntimeError(
            "the main thread's gevent hub is not known yet: call init_app(), or enqueue the first item, on"
            " that thread"
        )
    return _main_hub


def call_soon(callback: Callable[..., object], *args: Any) -> None:
    """Have the main thread's hub call callback, which must not block. Any thread may call this function."""
    hub = main_hub()
    if hub.thread_ident == native.get_ident():
        hub.loop.run_callback(callback, *args)
    else:
        hub.loop.run_callback_threadsafe(callback, *args)


def spawn(func: Callable[..., object], *args: Any) -> None:
    """Run a function on a greenlet of the main thread, in a copy of the caller's context."""
    import gevent

    call_soon(gevent.spawn, copy_context().run, func, *args)  # a new greenlet's context is empty


def run(func: Callable[[], None], within: float | None = None) -> None:
    """Run a function that may take patched locks (a log handler, a signal receiver), and wait for its end.

    Greenlets call the function directly. A native thread must not share a patched lock with greenlets, so
    under gevent a greenlet calls the function for it. If the main thread is busy, and the greenlet does not
    begin within ``within`` seconds (None: no limit), the native thread calls the function after all.
    """
    global _is_held_up
    if _is_fit_here():
        func()
        return
    call = _Call(func)
    spawn(call.run)
    # The next call in a row does not wait again: the greenlets begin in order, if they begin at all.
    if within is not None and not call.begun.wait(0 if _is_held_up else within):
        _is_held_up = True
        call.run()
    call.ended.wait()
    if call.error is not None:
        raise call.error


def _is_fit_here() -> bool:
    if not native.is_patched():
        return True
    try:
        return native.get_ident() == main_hub().thread_ident
    except RuntimeError:
        return True  # no greenlet has started this call yet


class _Call:
    """A function that is run once, by the thread or greenlet that comes first."""

    def __init__(self, func: Callable[[], None]) -> None:
        self.begun = native.Latch()
        self.ended = native.Latch()
        self.error: BaseException | None = None
        self._func: list[Callable[[], None]] = [func]

    def run(self) -> None:
        global _is_held_up
        if native.get_ident() == main_hub().thread_ident:
            _is_held_up = False
        try:
            func = self._func.pop()
        except IndexError:
            return  # the other one was faster
        self.begun.open()
        try:
            func()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.open()


def _after_fork() -> None:
    global _main_hub, _is_held_up
    _is_held_up = False
    _main_hub = None  # the child's main thread is the one that forked, and may have had another hub


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
