"""The worker's side of Celery: the app's tasks under their names, and the settings that make a worker safe.

``join`` does nothing but listen. Only when a Celery worker starts in this process are the tasks given to it:
by then all are made, in whatever order the factory, the tasks and the Celery app have come.
"""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Task as CeleryTask
from celery.bootsteps import StartStopStep
from celery.concurrency import get_implementation
from celery.exceptions import Reject
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

from flask_background.celery.app import (
    celery_of,
    check_settings,
    check_timeout,
    explicit_settings,
    fixed_visibility,
    visible_for,
)
from flask_background.celery.records import Failure
from flask_background.celery.uploads.stores import store_at
from flask_background.celery.worker.run import Again, ItemRun
from flask_background.celery.worker.running_item import Place
from flask_background.celery.worker.shutdown import Ending
from flask_background.celery.worker.shutdown_flag import stop_flag
from flask_background.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.app_state import BackgroundState

_parts: weakref.WeakSet[BackgroundState] = weakref.WeakSet()


def join(part: BackgroundState) -> None:
    """Give the app's tasks to the Celery worker that starts in this process, if one does."""
    _parts.add(part)
    if part.settings.celery is not None:
        celery_of(part.app, part.settings)  # for ``celery -A``, which looks for it right after this
    worker_init.connect(_worker_starts, dispatch_uid=__name__)
    worker_ready.connect(_worker_is_ready, dispatch_uid=__name__)
    worker_shutting_down.connect(_worker_stops, dispatch_uid=__name__)


class ItemTask(CeleryTask):  # type: ignore[misc]
    """What Celery knows of a task: that its messages are items."""

    abstract = True
    Request = "flask_background.celery.worker.request:ItemRequest"
    typing = False
    throws = (Failure,)  # it is in the app's log already
    store_errors_even_if_ignored = True  # such as its own, of a run that it has killed
    part: BackgroundState

    @cached_property
    def place(self) -> Place:
        """Made with the first run, and so by the process that runs items."""
        return Place(self.part, self.app)

    def run(self, payload: str) -> None:
        """Run one item."""
        try:
            ItemRun(self.place, self.request, payload).run()
        except Again as again:
            raise Reject(str(again), requeue=True) from None


class StopStep(StartStopStep):  # type: ignore[misc]
    """Hears of the worker's stop, also where no signal says it: by remote control, say."""

    def start(self, worker: Any) -> None:
        """Celery listens to signals now, and has taken no message yet: with solo, one may hold it up."""
        if _ending is not None:
            _ending.listen()

    def close(self, worker: Any) -> None:
        """It begins."""
        if _ending is not None:
            _ending.begin()


_ending: Ending | None = None


def _worker_starts(sender: Any, **_: Any) -> None:
    """Make the worker ready. What is wrong ends it, for it would take messages that it cannot run."""
    global _ending
    parts = [part for part in _parts if part.app.extensions.get("celery") is sender.app]
    if not parts:
        return
    try:
        _check_pool(sender)
        for part in parts:
            _make_ready(sender, sender.app, part)
    except ConfigurationError as error:
        raise SystemExit(f"flask-background: {error}") from error
    _ending = Ending(sender, parts)
    sender.app.steps["worker"].add(StopStep)
    worker_ready.connect(_worker_is_ready, dispatch_uid=__name__)
    worker_shutdown.connect(_worker_has_stopped, dispatch_uid=__name__)


def _check_pool(worker: Any) -> None:
    """Raise UnsupportedError if items would hold up the worker."""
    pool = get_implementation(worker.pool_cls)
    if pool.is_green:
        raise UnsupportedError(
            f"a pool of greenlets ({pool.__module__}) cannot run items: their tokens and timeouts need real"
            " threads. Use --pool prefork, threads or solo; coroutines work in all of them"
        )


def _worker_is_ready(sender: Any, **_: Any) -> None:
    # What items of a worker before this one have left in the journal here may have no other process.
    for part in _parts:
        if part.app.extensions.get("celery") is sender.app:
            part.look_for_work()


def _worker_stops(**_: Any) -> None:
    if _ending is not None:
        _ending.begin()


def _worker_has_stopped(**_: Any) -> None:
    if _ending is not None:
        _ending.over()


def _make_ready(worker: Any, celery: Celery, part: BackgroundState) -> None:
    check_settings(celery)
    if part.settings.uploads is not None:
        store_at(part.settings.uploads)
    given = explicit_settings(celery)
    tasks = part.registry.tasks
    fixed = fixed_visibility(celery)
    visible = visible_for(fixed, tasks.values(), part.settings.kill_after)
    for task in tasks.values():
        check_timeout(task, visible, part.settings.kill_after)
    if celery.connection_for_read().transport.driver_type != "amqp":
        # The second: Redis is asked every ten seconds, not every hundred, what a dead worker has left.
        safe = {"visibility_timeout": visible, "unacked_restore_throttle": 1}
        celery.conf.broker_transport_options = {**safe, **(celery.conf.broker_transport_options or {})}
    if celery.connection_for_read().transport.driver_type == "redis":
        from flask_background.celery.redis.qos import (
            outlive_redis,  # with redis-py, which other brokers do not take
        )

        outlive_redis()
    if "worker_prefetch_multiplier" not in given and worker.prefetch_multiplier == 4:  # Celery's default
        worker.prefetch_multiplier = 1
    stop_flag.share()
    part.become_worker()
    register(celery, part)


def register(celery: Celery, part: BackgroundState) -> None:
    """Enter the app's tasks. Raises ConfigurationError if Celery has another one under a task's name."""
    given = explicit_settings(celery)
    safe = {
        # What dies with its run is sent again, also by a worker that lives on; how often is counted by us.
        name.removeprefix("task_"): True
        for name in ("task_acks_late", "task_reject_on_worker_lost")
        if name not in given
    }
    for name in part.registry.tasks:
        known = celery.tasks.get(name)
        if isinstance(known, ItemTask):
            continue
        if known is not None:
            raise ConfigurationError(
                f"Celery has a task {name!r} of its own: give the other one another name,"
                " @background.task(name=...)"
            )
        celery.register_task(type("ItemTask", (ItemTask,), {"name": name, "part": part, **safe})())
