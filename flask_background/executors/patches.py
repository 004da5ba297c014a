"""The check of a process whose threads, locks and sockets were replaced by gevent or eventlet."""

from __future__ import annotations

import sys

from flask_background.concurrency import native
from flask_background.errors import ConfigurationError

# The modules that gevent must have patched: the module, the option that leaves it out, and the object that
# would fail.
_NEEDED = (
    ("threading", "thread=False", "a lock that an item shares with a view"),
    ("queue", "queue=False", "a thread pool that an item uses, asyncio's too,"),
)


def check_patches() -> None:
    """Raise ConfigurationError if eventlet has patched this process, or gevent in part only."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "socket", "time"))):
        raise ConfigurationError(
            "eventlet has patched this process, and Flask-Background does not work with it: the first durable"
            " item would stop the whole server. Use another worker, such as gunicorn's gthread or gevent"
        )
    for module, option, what in _NEEDED:
        if native.is_patched() and not sys.modules["gevent.monkey"].is_module_patched(module):
            raise ConfigurationError(
                f"gevent has patched this process, but with {option}: {what} would stop all requests. Call"
                f" gevent.monkey.patch_all() without {option}, before the app is imported"
            )
