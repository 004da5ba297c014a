"""What one app holds, in ``app.extensions["background"]``: its settings, and this process's backend."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from . import hosts, native
from .backends.local import LocalBackend
from .config import Settings

if TYPE_CHECKING:
    from flask import Flask

    from .state import StateProcessor


class _MadeWhenNeeded:
    """``AppPart.backend`` as long as there is none: what is made becomes an attribute, which comes first."""

    def __get__(self, part: AppPart, kind: type[AppPart]) -> LocalBackend:
        return part._make_backend()


class AppPart:
    """One app's part of a Background.

    Whatever is alive belongs to one process: after a fork the child makes its own, and the parent's items
    stay the parent's.
    """

    def __init__(self, app: Flask, owner: object, processors: list[StateProcessor]) -> None:
        self.app = app
        self.owner = owner
        self.processors = processors
        self.settings = Settings.from_config(app.config)

    #: The backend of this process, made when the first item asks for it.
    backend = _MadeWhenNeeded()

    def _make_backend(self) -> LocalBackend:
        host = hosts.current()
        made = LocalBackend(self.app, self.settings, host)
        with _publishing:
            backend: LocalBackend = vars(self).setdefault("backend", made)
            if backend is made:
                _with_backend.add(self)
        if backend is made:
            host.add(made)
        return backend


# Held for a few lines that call nothing foreign: under gevent, code that logs may switch to another greenlet,
# which would wait for this lock for ever.
_publishing = native.new_lock()
_with_backend: weakref.WeakSet[AppPart] = weakref.WeakSet()


def _after_fork() -> None:
    global _publishing
    _publishing = native.new_lock()  # another thread of the parent may have held it
    for part in _with_backend:
        vars(part).pop("backend", None)
    _with_backend.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
