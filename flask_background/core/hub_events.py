"""The events of an app under gevent, reported in the main thread, where locks that views share work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import hub, native
from flask_background.core.events import Events
from flask_background.core.notices import Notices

if TYPE_CHECKING:
    from flask import Flask

# How long a stop waits for a busy main thread before its own thread logs the events (seconds). The process
# may be killed soon.
_HURRY = 0.25


def make_events(app: Flask) -> Events:
    """Return the object that reports the events of an app in this process."""
    return HubEvents(app) if native.is_patched() else Events(app)


class HubEvents(Events):
    """The events of an app, reported on greenlets."""

    within: float | None = None

    def _tell(self, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if method is Events.stopping:
            self.within = _HURRY
        hub.run(partial(method, self, *args, **kwargs), self.within)


def _on_greenlets(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def tell(self: HubEvents, *args: Any, **kwargs: Any) -> None:
        self._tell(method, *args, **kwargs)

    return tell


for _name, _method in {**vars(Notices), **vars(Events)}.items():
    if (
        inspect.isfunction(_method)
        and not _name.startswith("_")
        and _method.__annotations__["return"] == "None"
    ):
        setattr(HubEvents, _name, _on_greenlets(_method))
