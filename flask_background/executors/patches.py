"""Refuses processes whose threads, locks and sockets were replaced in a way that items cannot live with."""

from __future__ import annotations

import sys

from flask_background.concurrency import native
from flask_background.errors import ConfigurationError


def check_patches() -> None:
    """Raise ConfigurationError if eventlet has patched this process, or gevent all but its threads."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "socket", "time"))):
        raise ConfigurationError(
            "eventlet has patched this process, and Flask-Background does not work with it: the first durable"
            " item would stop the whole server. Use another worker, such as gunicorn's gthread or gevent"
        )
    if native.is_patched() and not sys.modules["gevent.monkey"].is_module_patched("threading"):
        raise ConfigurationError(
            "gevent has patched this process, but not its threads (thread=False): a lock that an item shares"
            " with a view would stop all requests. Call gevent.monkey.patch_all() without thread=False,"
            " before the app is imported"
        )
