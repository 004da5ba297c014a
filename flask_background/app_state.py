"""The composition root: builds the parts of one app in one process, and hands them to each other.

Modules that import this one use ``state_of(app)``. All others are given the parts that they need, not the
state.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_background import hosts
from flask_background.concurrency import native
from flask_background.concurrency.once import Once
from flask_background.core.item import current_item_var
from flask_background.core.settings import Settings, warn_of_unknown_keys
from flask_background.errors import JournalError

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.core.backend import Backend
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem
    from flask_background.core.options import DefaultBackend
    from flask_background.core.registry import Registry
    from flask_background.core.request_state import StateProcessor
    from flask_background.durable.backend import DurableBackend
    from flask_background.local.backend import LocalBackend
    from flask_background.local.handover import Heir
    from flask_background.local.immediate import ImmediateBackend
    from flask_background.local.manual import ManualBackend

    #: Returns the backend for the items of a task, perhaps by calling the function that it is given.
    Route = Callable[[Callee, Callable[[Callee], Backend[Any]]], Backend[Any]]


#: The key of an app's state among its extensions, beside its Background, which several apps may share.
STATE = "background.state"
#: The journal's file in its folder. An app without a journal imports nothing of it.
FILE_NAME = "journal.sqlite3"
# How often a process without a journal looks whether another process has made one (seconds).
_LOOK = 1.0
# How much longer than the grace period the stop of a process may take (seconds).
_STOPS_WITHIN = 30.0
# How long a thread waits while another thread opens the journal, in seconds.
_OPENED_WITHIN = 10.0

_is_child_process = False


def become_child_process() -> None:
    """Mark this process as a child of a process executor: the app that it loads holds no items."""
    global _is_child_process
    _is_child_process = True


def state_of(app: Flask) -> BackgroundState:
    """Return the state of an app that has a Background; raises KeyError for another app."""
    state: BackgroundState = app.extensions[STATE]
    return state


class BackgroundState:
    """The parts of one app in this process; each part is made when it is first asked for.

    A part belongs to one process: after a fork the child makes its own parts, and the parent's items stay
    with the parent. The state refers to its app weakly, because the app refers to the state.
    """

    def __init__(self, app: Flask, registry: Registry, processors: list[StateProcessor]) -> None:
        self._app = weakref.ref(app)
        self.registry = registry
        self.processors = processors
        self.around_enqueue = registry.around_enqueue
        self.settings = Settings.from_config(app.config)
        if not _is_child_process:
            # Not app.logger, whose first use gives it a handler, perhaps before the app configures logging
            warn_of_unknown_keys(app.config, logging.getLogger(app.name).getChild("background"))
        #: Whether items may go to another backend even if their task names none.
        self.elsewhere = self.settings.backend != "local"
        self._route: Route | None = None
        #: Whether this process holds items in memory. A child process or a Celery worker does not: no item
        #: may delay its end.
        self.holds_items = not _is_child_process
        #: Whether this process runs durable items; a web process may leave them to other processes.
        self.runs_durable = self.settings.run_in_web and self.holds_items
        #: Whether an item has forked this process: then the item's process runs the durable items.
        self.is_fork_of_item = False
        #: The executors whose durable items this process runs; None: all.
        self.executors: frozenset[str] | None = None
        #: What this process is, for people; None: what its host is.
        self.role: str | None = None
        #: Whether pages, commands or metrics look at the app's items: then the app has a journal in any case.
        self.is_monitored = False
        #: Whether the arguments of in-memory items are checked like those of durable ones.
        self.strict = self.settings.strict
        self._forget_parts()

    def _forget_parts(self) -> None:
        self._local: LocalBackend | None = None
        self._journal: Once[DurableBackend] = Once()
        self._immediate: ImmediateBackend | None = None
        self._manual: ManualBackend | None = None
        self._celery: CeleryBackend | None = None
        #: What monitors keep from one look to the next; a room above this one makes it.
        self.kept_for_monitors: object = None
        #: Whether this process has looked for items that other processes left in the journal.
        self.looked = False
        # When this process looks again whether another process has made a journal (``time.monotonic()``).
        self._looks_again_at = 0.0

    @property
    def app(self) -> Flask:
        """The app; while code can use its state the app is alive."""
        app = self._app()
        assert app is not None
        return app

    @property
    def backend(self) -> LocalBackend:
        """The backend of items in this process."""
        return self._make_local() if self._local is None else self._local

    @property
    def durable(self) -> DurableBackend:
        """The journal's backend in this process, opened when it is first asked for; raises JournalError."""
        return self._journal.made or self._open_journal()

    @property
    def immediate(self) -> ImmediateBackend:
        """The backend that runs items where they are enqueued."""
        if self._immediate is None:
            from flask_background.local.immediate import ImmediateBackend  # imported for apps that name it

            self._immediate = ImmediateBackend(self.backend, self.settings.max_payload, strict=self.strict)
        return self._immediate

    @property
    def manual(self) -> ManualBackend:
        """The backend whose items wait until a test runs them."""
        if self._manual is None:
            from flask_background.local.manual import ManualBackend  # imported for tests

            self._manual = ManualBackend(self.backend, self.settings, self.registry)
            if self.settings.backend == "manual":  # the journal is not used, which else has this place
                self.backend.companion = self._manual
        return self._manual

    @property
    def celery(self) -> CeleryBackend:
        """The backend that sends items to Celery. Raises ConfigurationError."""
        if self._celery is None:
            from flask_background.celery.client.backend import (
                CeleryBackend,  # imported with Celery, for apps that name it
            )

            self._celery = CeleryBackend(self)
            with _building:
                _with_parts.add(self)
        return self._celery

    def backend_for(self, callee: Callee) -> Backend[Any]:
        """Return the backend for the items of a task. Raises JournalError."""
        return self._find_backend(callee) if self._route is None else self._route(callee, self._find_backend)

    def change_route(self, route: Route | None) -> Route | None:
        """Let route find the backends of items (None: this state); return the route before. For tests."""
        before, self._route = self._route, route
        self.elsewhere = route is not None or self.settings.backend != "local"
        return before

    def _find_backend(self, callee: Callee) -> Backend[Any]:
        name = callee.backend or self.settings.backend
        # These values of BACKGROUND_BACKEND are for tests, so they override the backend that a task names.
        if self.settings.backend == "manual":
            return self.manual
        if "immediate" in (name, self.settings.backend):
            return self.immediate
        # Workers could not find a callable without a name, so its item stays here, in memory.
        if name == "celery" and callee.portable:
            return self.celery
        return self.durable if callee.durable else self.backend

    def has_celery(self) -> bool:
        """Return whether the app may have items in a Celery cluster."""
        return self._celery is not None or (
            self.settings.backend == "celery"
            or (self.settings.backend == "local" and self.registry.names_backend("celery"))
        )

    def _has_cluster(self) -> bool:
        """Return whether there is a Celery app to send items to."""
        return self.settings.celery is not None or "celery" in self.app.extensions

    def join_celery(self) -> None:
        """Register this app for a Celery worker in this process: a worker that starts here runs its items.

        An app that sends no items to Celery is not registered.
        """
        if self.settings.celery is not None or self.settings.backend == "celery":
            self.backend_is_named("celery")
        else:
            self.registry.tell_backends(self)

    def backend_is_named(self, name: str) -> None:
        """Prepare for a backend that the app or one of its tasks names; naming it again does no harm."""
        if name == "celery":
            from flask_background.celery.worker.bootstrap import join  # imports Celery

            join(self)

    def become_worker(self) -> None:
        """Mark this process as a Celery worker or the parent of one: the process holds no items."""
        self.holds_items = self.runs_durable = False

    @property
    def folder(self) -> Path:
        """The folder of the journal."""
        # Apps in one folder share its instance folder. Each needs its own journal, or one app would take the
        # other's items for items without an owner.
        return self.settings.journal or Path(self.app.instance_path, f"background-{self.app.name}")

    def has_journal(self) -> bool:
        """Return whether the app has durable items, or may have, or is monitored."""
        if self._journal.made is not None:
            return True
        may_have = (
            self.is_monitored
            or self.registry.has_durable(self.settings.backend)
            or self.settings.overflow == "journal"
            or (self.folder / FILE_NAME).exists()
        )
        return may_have and self.settings.backend not in ("immediate", "manual")

    def look_for_work(self) -> None:
        """Run items that other processes left in the journal, once there is one; raise nothing."""
        if not self.looked and self.has_journal():
            self.looked = True
            try:
                self.durable  # noqa: B018
            except Exception as error:
                self.backend.log_error(
                    "The journal could not be opened; the next durable item tries again", error
                )

    def worker_started(self, *, follows: bool) -> None:
        """Run items that other processes left. ``follows``: another one may still hand its items over."""
        self.look_for_work()
        if follows and not self.looked and self._may_inherit():
            # gunicorn starts new workers before it stops the old ones, which may make a journal at their end.
            end = time.monotonic() + self.settings.grace_period + _STOPS_WITHIN
            with suppress(RuntimeError):  # no thread can be started: the next item looks
                native.start_thread(partial(_look_until, weakref.ref(self), end), "background-lookout")

    def server_started(self) -> None:
        """Run items that other processes left, without a request, unless the app is being tested."""
        app = self._app()
        if app is not None and not app.testing:
            self.look_for_work()

    def look_out(self) -> None:
        """Look whether another process has made a journal, and then run its items. Called now and then."""
        now = time.monotonic()
        if self.looked or now < self._looks_again_at:
            return
        self._looks_again_at = now + _LOOK
        if self._may_inherit() and (self.folder / FILE_NAME).exists():
            with suppress(RuntimeError):  # no thread can be started: the next look tries again
                native.start_thread(self.look_for_work, "background-start", runs_app_code=True)

    def _hands_over(self) -> bool:
        """Return whether the items in memory of this process are handed over at its end."""
        app = self._app()
        is_tested = app is None or app.testing or self.settings.backend in ("immediate", "manual")
        return self.settings.hand_over and self.holds_items and not (is_tested or self.is_fork_of_item)

    def _may_inherit(self) -> bool:
        """Return whether this process runs items that others hand over."""
        return self.runs_durable and self._hands_over() and bool(self.registry.tasks)

    def _open_heir(self) -> Heir | None:
        """Open the journal for items that are handed over; raises JournalError."""
        if not self._hands_over():
            return None
        from flask_background.durable.handover import JournalHeir  # imported for a stop that needs it

        return JournalHeir(self.folder, self.settings, self.registry)

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no item is in flight in this process or waits in the journal for this process."""
        return (self._journal.made or self._manual or self.backend).wait_idle(timeout)

    def change_backend(self, name: DefaultBackend) -> DefaultBackend:
        """Use another ``BACKGROUND_BACKEND`` from now on; return the one before. For tests."""
        before = self.settings.backend
        self.settings = replace(self.settings, backend=name)
        self.change_route(self._route)
        return before

    def close(self, grace: float) -> list[WorkItem[Any]]:
        """Stop the app in this process, and forget its parts: its next item makes new ones. For tests.

        Gives items grace seconds to end, and returns those that had not ended.
        """
        local = self._local
        if local is None:
            return []
        self.settings, settings = replace(self.settings, hand_over=False), self.settings
        try:
            unfinished = local.stop(grace)
        finally:
            self.settings = settings
        hosts.current().remove(local.shutdown)
        self._forget_parts()
        return unfinished

    def _make_local(self) -> LocalBackend:
        from flask_background.local.backend import (
            ChildBackend,
            LocalBackend,  # imports all that runs items, for processes that have some
        )

        host = hosts.current()
        app, settings = self.app, self.settings
        kind = LocalBackend if self.holds_items else ChildBackend
        made = kind(
            app,
            settings,
            host,
            self.registry,
            open_heir=self._open_heir,
            look_out=self.look_out,
        )
        with _building:
            if self._local is not None:  # another thread was faster
                return self._local
            self._local = made
            _with_parts.add(self)
        host.add(made.shutdown)
        if settings.switch_interval is not None:
            sys.setswitchinterval(settings.switch_interval)
        return made

    def _open_journal(self) -> DurableBackend:
        opened = self._journal.get(self._make_durable, _OPENED_WITHIN)
        if opened is None:
            raise JournalError(
                f"the journal in {self.folder} could not be opened: nothing was enqueued. Another thread"
                f" of this process failed, or took longer than {_OPENED_WITHIN:g} s; the log says why,"
                " and the next durable item tries again"
            )
        return opened

    def _make_durable(self) -> DurableBackend:
        from flask_background.durable.backend import (
            DurableBackend,  # imports sqlite3, for apps that have durable tasks
        )

        return DurableBackend(
            self.backend,
            self.settings,
            self.folder,
            self.registry,
            executors=(self.executors or self.settings.executors.keys()) if self.runs_durable else (),
            role=self.role or hosts.current().role,
            only_awaited=self.is_fork_of_item,
            sender=(lambda: self.celery.sender) if self._has_cluster() else None,
            in_this_process=lambda: self.durable,
        )


def _look_until(ref: weakref.ref[BackgroundState], end: float) -> None:
    """Look for a journal until there is one, the app is gone, or the time has come (``time.monotonic()``)."""
    while time.monotonic() < end and (state := ref()) is not None and not state.looked:
        state.look_out()
        del state
        native.sleep(_LOOK)


def states_in_use() -> set[BackgroundState]:
    """Return the states of the apps that have had items in this process and have not been stopped."""
    return {
        state for state in _with_parts if state._local is not None and not state._local.shutdown.is_stopped()
    }


# Held only for a few lines that call no foreign code. Under gevent, code that logs may switch to another
# greenlet, and that greenlet would wait for this lock for ever.
_building = native.new_lock()
_with_parts: weakref.WeakSet[BackgroundState] = weakref.WeakSet()


def _after_fork() -> None:
    global _building
    _building = native.new_lock()  # another thread of the parent may have held it
    for state in _with_parts:
        state._forget_parts()
        state.is_fork_of_item = state.is_fork_of_item or current_item_var.get(None) is not None
    _with_parts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
