"""The start and the stop of a Celery worker that has items of ours.

``join`` connects to signals of Celery's, and is called only for an app that says that its items go to Celery.
When a worker of that Celery starts, the one task of ours is registered there. Whatever else the worker runs
stays as Celery has it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from celery import Task as CeleryTask
from celery.bootsteps import StartStopStep
from celery.concurrency import get_implementation
from celery.signals import task_revoked, worker_init, worker_shutdown, worker_shutting_down

from flask_background.celery.app import TASK_NAME, ThisProcess, celery_of, check_settings
from flask_background.celery.records import is_redis
from flask_background.celery.records.record import Record
from flask_background.celery.uploads import store_at
from flask_background.celery.worker.run import Failure, ItemRun
from flask_background.celery.worker.run_table import RunTable
from flask_background.celery.worker.supervisor import Supervisor
from flask_background.errors import BackgroundError, ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.worker.periodic import Periodic

# How long the end of the worker waits for each of our threads, in seconds.
_LAST_LOOK = 2.0


class WorkerApp(ThisProcess, Protocol):
    """An app whose items a worker runs, as the worker needs it."""

    @property
    def celery(self) -> CeleryBackend: ...


_states: weakref.WeakSet[WorkerApp] = weakref.WeakSet()
_worker: Worker | None = None


def join(state: WorkerApp) -> None:
    """Run the items of an app in the Celery worker that starts in this process, if one does."""
    _states.add(state)
    if state.settings.celery is not None:
        celery_of(state.app, state.settings)  # for ``celery -A``, which looks for it right after this
    worker_init.connect(_worker_starts, dispatch_uid=__name__)


class ItemTask(CeleryTask):  # type: ignore[misc]
    """The one task of ours that Celery knows: each of its messages is an item."""

    name = TASK_NAME
    typing = False
    acks_late = True
    throws = (Failure,)  # the app's log has it
    store_errors_even_if_ignored = True

    def __init__(self, celery: Celery, states: Mapping[str, WorkerApp], table: RunTable) -> None:
        self.states, self.table = states, table
        self.reject_on_worker_lost = not is_redis(celery)  # where the records say what becomes of the item

    def run(self, home: str, task_name: str, fields: Mapping[str, str] | None = None) -> None:
        """Run one item."""
        # An app that has another name in the site than here is the only one here.
        state = self.states.get(home) or next(iter(self.states.values()))
        sent = None if fields is None else Record.of_fields(fields)
        limit = (self.request.timelimit or (None,))[0]
        is_second = bool((self.request.delivery_info or {}).get("redelivered"))
        run = ItemRun(state.celery, self.table, self.request.id, limit, is_second=is_second)
        run.run(task_name, sent)


class ItemStep(StartStopStep):  # type: ignore[misc]
    """Our part of a worker's start and stop; the stop also where no signal says it, as by remote control."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """The pool's children are there."""
        if _worker is not None:
            _worker.start()

    def close(self, worker: Any) -> None:
        """The stop begins."""
        if _worker is not None:
            _worker.begin_stop(again=False)


class Worker:
    """The parts that a worker with items of ours has besides Celery's."""

    def __init__(self, celery: Celery, states: Mapping[str, WorkerApp]) -> None:
        self.table = RunTable(list(states))
        self._celery = celery
        self._states = states
        self._grace = max(state.settings.grace_period for state in states.values())
        self._threads: list[Periodic] = []

    def start(self) -> None:
        """Begin to look after items, once the children are forked."""
        backends = [state.celery for state in self._states.values()]
        self._threads.append(Supervisor(self.table, backends))
        if is_redis(self._celery):
            from flask_background.celery.worker.reconciler import Reconciler  # with redis-py

            self._threads += map(Reconciler, backends)
        for thread in self._threads:
            thread.start()
        # Items of an earlier worker may have left some in the journal, which no other process may forward.
        for state in self._states.values():
            state.look_for_work()

    def begin_stop(self, *, again: bool, is_cold: bool = False) -> None:
        """Items have the grace period from now on, or none if somebody asks ``again``. For handlers, too."""
        is_hurried = is_cold or (again and self.table.stops_at() is not None)
        self.table.stop_in(0.0 if is_hurried else self._grace)

    def close(self) -> None:
        """Everything has ended."""
        if all([thread.close(_LAST_LOOK) for thread in self._threads]):
            self.table.close()


def _states_of(celery: Celery) -> dict[str, WorkerApp]:
    return {state.app.name: state for state in _states if state.app.extensions.get("celery") is celery}


def _worker_starts(sender: Any, **_: Any) -> None:
    """Make the worker ready. An error ends the worker, which would take messages that it cannot run."""
    global _worker
    states = _states_of(sender.app)
    if not states:
        return
    try:
        _check_pool(sender)
        check_settings(sender.app)
        for state in states.values():
            if state.settings.uploads is not None:
                store_at(state.settings.uploads)
            state.become_worker()
        _worker = Worker(sender.app, states)
        sender.app.tasks.pop(TASK_NAME, None)  # of a worker that was here before
        sender.app.register_task(ItemTask(sender.app, states, _worker.table))
    except ConfigurationError as error:
        raise SystemExit(f"flask-background: {error}") from error
    sender.app.steps["worker"].add(ItemStep)
    worker_shutting_down.connect(_worker_stops, dispatch_uid=__name__)
    worker_shutdown.connect(_worker_has_stopped, dispatch_uid=__name__)
    task_revoked.connect(_task_is_revoked, dispatch_uid=__name__)


def _check_pool(worker: Any) -> None:
    """Raise UnsupportedError if items would hold up the worker."""
    pool = get_implementation(worker.pool_cls)
    if pool.is_green:
        raise UnsupportedError(
            f"a pool of greenlets ({pool.__module__}) cannot run items: their tokens and timeouts need real"
            " threads. Use --pool prefork, threads or solo; coroutines work in all of them"
        )


def _worker_stops(how: str = "", **_: Any) -> None:
    if _worker is not None:
        _worker.begin_stop(again=True, is_cold=how == "Cold")


def _worker_has_stopped(**_: Any) -> None:
    global _worker
    if _worker is not None:
        _worker.close()
        _worker = None


def _task_is_revoked(sender: Any, request: Any, **_: Any) -> None:
    """Celery itself has ended an item, or has dropped its message."""
    if not isinstance(sender, ItemTask):
        return
    for state in sender.states.values():
        session = state.celery.session
        try:
            session.cancel(request.id, force=True)
        except BackgroundError as error:
            what = f"That item {request.id} was revoked could not be put on record"
            session.events.log_error(what, error, request.id)
