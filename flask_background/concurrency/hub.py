"""gevent's hub of the main thread: native threads hand calls to it, and greenlets wait in it for native threads.

Only gevent's public interface is used. A call is handed over with ``loop.run_callback_threadsafe``, which wakes
a sleeping hub at once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native

if TYPE_CHECKING:
    from gevent.hub import Hub

_main_hub: Hub | None = None


def remember_main_hub() -> None:
    """Look which hub the main thread has, if this is the main thread and gevent has patched the process."""
    global _main_hub
    if not native.is_patched() or native.is_own_thread():
        return
    hub: Hub = importlib.import_module("gevent").get_hub()
    if hub.main_hub:
        _main_hub = hub


def main_hub() -> Hub:
    """The hub of the main thread. Raises RuntimeError if a native thread asks before the main thread was seen."""
    if _main_hub is None:
        remember_main_hub()
    if _main_hub is None:
        raise RuntimeError(
            "gevent's hub is not known yet, and this thread has another one: call init_app(), or enqueue the"
            " first item, in the main thread"
        )
    return _main_hub


def call_soon(callback: Callable[..., object], *args: Any) -> None:
    """Have the main thread's hub call back; callable from any thread. The callback must not block."""
    hub = main_hub()
    if hub.thread_ident == native.get_ident():
        hub.loop.run_callback(callback, *args)
    else:
        hub.loop.run_callback_threadsafe(callback, *args)


def _after_fork() -> None:
    global _main_hub
    _main_hub = None  # the child's main thread is the one that forked, which may have had another hub


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
