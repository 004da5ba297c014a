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
        self._backend: LocalBackend | None = None

    @property
    def backend(self) -> LocalBackend:
        """The backend of this process, made when the first item asks for it."""
        return self._backend or self._make_backend()

    def _make_backend(self) -> LocalBackend:
        host = hosts.current()
        made = LocalBackend(self.app, self.settings, host)
        with _publishing:
            if self._backend is None:
                self._backend = made
                _with_backend.add(self)
        if self._backend is made:
            host.add(made)
        return self._backend


# Held for a few lines that call nothing foreign: under gevent, code that logs may switch to another greenlet,
# which would wait for this lock for ever.
_publishing = native.new_lock()
_with_backend: weakref.WeakSet[AppPart] = weakref.WeakSet()


def _after_fork() -> None:
    global _publishing
    _publishing = native.new_lock()  # another thread of the parent may have held it
    for part in _with_backend:
        part._backend = None
    _with_backend.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
