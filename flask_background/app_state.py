"""What one app holds, in ``app.extensions["background"]``: its settings, and this process's backends."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flask_background import hosts
from flask_background.concurrency import native
from flask_background.core.settings import Settings
from flask_background.errors import JournalError

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.core.backend import Backend
    from flask_background.core.callee import Callee
    from flask_background.core.registry import Registry
    from flask_background.core.request_state import StateProcessor
    from flask_background.durable.backend import DurableBackend
    from flask_background.local.backend import LocalBackend
    from flask_background.local.immediate import ImmediateBackend


# How long those who come at the same time wait for the journal to be opened, in seconds.
_OPENED_WITHIN = 10.0


class Owner(Protocol):
    """The Background that this is a part of."""

    registry: Registry
    processors: list[StateProcessor]


class _MadeWhenNeeded:
    """``AppPart.backend`` as long as there is none: what is made becomes an attribute, which comes first."""

    def __get__(self, part: BackgroundState, kind: type[BackgroundState]) -> LocalBackend:
        return part._make_backend()


class BackgroundState:
    """One app's part of a Background.

    Whatever is alive belongs to one process: after a fork the child makes its own, and the parent's items
    stay the parent's.
    """

    def __init__(self, app: Flask, owner: Owner) -> None:
        self.app = app
        self.owner = owner
        self.processors = owner.processors
        self.settings = Settings.from_config(app.config)
        #: Whether items may go elsewhere though their task does not say so.
        self.elsewhere = self.settings.backend != "local"
        #: Whether this process runs durable items: a web process may leave that to others.
        self.runs_durable = self.settings.run_in_web and not self.in_child
        #: The executors whose durable items this process runs; None: all.
        self.executors: frozenset[str] | None = None
        self.looked = False
        self._durable: DurableBackend | None = None
        self._immediate: ImmediateBackend | None = None
        self._celery: CeleryBackend | None = None

    #: Whether items in memory are held to what durable ones have to keep; decided at the first item.
    strict = False

    #: Whether this process is a child that a process executor has started, or a Celery worker.
    in_child = False

    #: The backend of this process, made when the first item asks for it.
    backend = _MadeWhenNeeded()

    @property
    def durable(self) -> DurableBackend:
        """The journal's backend in this process, opened when it is first asked for; raises JournalError."""
        return self._durable or self._open_journal()

    def backend_for(self, callee: Callee) -> Backend:
        """Where the items of a task go. Raises JournalError."""
        name = callee.backend or self.settings.backend
        # BACKGROUND_BACKEND = "immediate" is for tests: there it stands for whatever a task names.
        if "immediate" in (name, self.settings.backend):
            return self.immediate
        # A callable without a name that workers would find it by stays here, in memory.
        if name == "celery" and callee.portable:
            return self.celery
        return self.durable if callee.durable else self.backend

    @property
    def immediate(self) -> ImmediateBackend:
        """What runs items where they are enqueued."""
        if self._immediate is None:
            from flask_background.local.immediate import ImmediateBackend  # for apps that name it

            self._immediate = ImmediateBackend(self.backend, self.settings.max_payload, strict=self.strict)
        return self._immediate

    @property
    def celery(self) -> CeleryBackend:
        """What sends items to Celery. Raises ConfigurationError."""
        if self._celery is None:
            from flask_background.celery.client.backend import (
                CeleryBackend,  # with Celery, for apps that name it
            )

            self._celery = CeleryBackend(self.app, self.settings, self.owner.registry)
            with _publishing:
                _with_backend.add(self)
        return self._celery

    def has_celery(self) -> bool:
        """Whether the app may have items in a Celery cluster."""
        return self._celery is not None or (
            self.settings.backend == "celery"
            or (self.settings.backend == "local" and self.owner.registry.names_backend("celery"))
        )

    def _has_cluster(self) -> bool:
        """Whether there is a Celery that items may be sent to."""
        return self.settings.celery is not None or "celery" in self.app.extensions

    def join_celery(self) -> None:
        """Should this be a Celery worker's process, or become one, its tasks are there for it."""
        if self.settings.celery is not None or self.settings.backend == "celery" or "celery" in sys.modules:
            from flask_background.celery.worker.bootstrap import join

            join(self)

    def become_worker(self) -> None:
        """This is a Celery worker's process, or will be: it takes nothing that would live here."""
        self.in_child, self.runs_durable = True, False

    @property
    def folder(self) -> Path:
        """Where the journal is."""
        # Apps in one folder share its instance folder, and must not take each other's items for nobody's.
        return self.settings.journal or Path(self.app.instance_path, f"background-{self.app.name}")

    def has_journal(self) -> bool:
        """Whether the app has durable items, or may have."""
        if self._durable is not None:
            return True
        may_have = (
            self.owner.registry.has_durable(self.settings.backend)
            or (self.folder / "journal.sqlite3").exists()
        )
        return may_have and self.settings.backend != "immediate"

    def look_for_work(self) -> None:
        """Run what other processes have left in the journal. Raises nothing, and does it once."""
        if self.looked:
            return
        self.looked = True
        if self.has_journal():
            try:
                self.durable  # noqa: B018
            except Exception as error:
                self.backend.log_error(
                    "The journal could not be opened; the next durable item tries again", error
                )

    worker_started = look_for_work

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no item is in flight in this process, nor waits in the journal for it."""
        return (self._durable or self.backend).wait_idle(timeout)

    def _make_backend(self) -> LocalBackend:
        from flask_background.local.backend import LocalBackend
        from flask_background.local.child import (
            ChildBackend,  # with all that runs items, for processes that have some
        )

        host = hosts.current()
        self.strict = self.settings.strict
        made = (ChildBackend if self.in_child else LocalBackend)(self.app, self.settings, host)
        with _publishing:
            backend: LocalBackend = vars(self).setdefault("backend", made)
            if backend is made:
                _with_backend.add(self)
        if backend is made:
            host.add(made)
            if self.settings.switch_interval is not None:
                sys.setswitchinterval(self.settings.switch_interval)
        return backend

    def _open_journal(self) -> DurableBackend:
        from flask_background.durable.backend import (
            DurableBackend,  # with sqlite3, for apps that have durable tasks
        )

        opening = native.Latch()
        first = vars(self).setdefault("_opening", opening) is opening
        if not first:  # and no lock: under gevent the one who opens it may be another greenlet
            vars(self).get("_opening", opening).wait(_OPENED_WITHIN)
            if self._durable is None:
                raise JournalError(f"the journal in {self.folder} could not be opened: nothing was enqueued")
            return self._durable
        try:
            self._durable = DurableBackend(
                self.backend,
                self.settings,
                self.folder,
                self.owner.registry,
                runs=(self.executors or self.settings.executors.keys()) if self.runs_durable else (),
                sender=(lambda: self.celery.sender) if self._has_cluster() else None,
            )
        finally:
            vars(self).pop("_opening", None)
            opening.open()
        return self._durable


# Held for a few lines that call nothing foreign: under gevent, code that logs may switch to another greenlet,
# which would wait for this lock for ever.
_publishing = native.new_lock()
_with_backend: weakref.WeakSet[BackgroundState] = weakref.WeakSet()


def _after_fork() -> None:
    global _publishing
    _publishing = native.new_lock()  # another thread of the parent may have held it
    for part in _with_backend:
        vars(part).pop("backend", None)
        part._durable = part._immediate = part._celery = None
        vars(part).pop("_opening", None)
        part.looked = False
    _with_backend.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
