"""The end of a Celery worker, bounded: what has not ended when its time is up goes back to its queue.

Celery's own stop waits without limit for what runs, and the main thread with it. So a thread keeps the time.
When that is up, it names what is left, stops the pool's processes where they are, puts the records right,
hands the messages back, and ends the process. A run that is cut so is no attempt, and no crash.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty
from types import FrameType
from typing import TYPE_CHECKING, Any

from celery.bootsteps import RUN
from celery.worker import state

from flask_background.celery.redis.heartbeat import Life
from flask_background.celery.worker.running_item import running
from flask_background.celery.worker.shutdown_flag import stop_flag
from flask_background.concurrency import native
from flask_background.core.events import Events
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState

# How long records and messages may take, once the time is up; then the process ends without them (seconds).
_BOUND = 6.0
# How long what a process had written to the network when it was stopped may be on its way (seconds).
_ON_ITS_WAY = 0.1
# How long the main thread may take to ask for no more messages (seconds).
_LAST_MESSAGE = 2.5
# How long a run's lock is waited for: somebody who holds it puts on record what the run came to (seconds).
_FOR_A_LOCK = 0.5


class Ending:
    """Keeps the time of one worker's stop."""

    def __init__(self, worker: Any, parts: Sequence[BackgroundState]) -> None:
        self._worker = worker
        self._part_of = {name: part for part in parts for name in part.registry.tasks}
        self._grace = max(part.settings.grace_period for part in parts)
        self._theirs: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._listens = self._begun = self._is_over = False
        #: Opened when somebody will wait no longer, or when all has ended by itself.
        self._enough = native.Latch()

    def listen(self) -> None:
        """Heed signals from now on, before Celery does. On the main thread.

        A worker that runs on another one is a part of a process, as in tests: that one does not end with it.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._listens = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            theirs = signal.getsignal(number)
            if callable(theirs) and theirs != self._on_signal:
                self._theirs[number] = theirs
                signal.signal(number, self._on_signal)

    def begin(self, seconds: float | None = None) -> None:
        """The stop has begun, and items have so many seconds (None: the grace period). Fit for a handler."""
        if self._begun or not self._listens:
            return
        self._begun = True
        seconds = self._grace if seconds is None else seconds
        stop_flag.raise_for(seconds)
        # Not threading's: whoever the signal has interrupted may hold its locks.
        _thread.start_new_thread(self._keep_time, (seconds,))

    def over(self) -> None:
        """All has ended by itself."""
        self._is_over = True
        self._enough.open()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first one begins the stop: QUIT without a grace period. The next one ends it."""
        if self._begun:
            self._enough.open()
        elif number == signal.SIGQUIT:
            self.begin(0.0)
            state.should_stop = 0
        else:
            self.begin()
            self._theirs[number](number, frame)  # Celery takes no more messages, and waits

    # On a thread of its own.

    def _keep_time(self, seconds: float) -> None:
        self._enough.wait(seconds)
        if self._is_over:
            return
        done = native.Latch()
        _thread.start_new_thread(self._cut, (done,))
        status = 0 if done.wait(_BOUND) else 1
        for pid in self._processes():
            _send(pid, signal.SIGKILL)
        if self._worker.pidlock:
            self._worker.pidlock.release()
        os._exit(status)

    def _cut(self, done: native.Latch) -> None:
        try:
            for pid in self._processes():  # from here on nobody but us writes what they came to
                _send(pid, signal.SIGSTOP)
            native.sleep(_ON_ITS_WAY)
            for request in _unfinished():
                self._leave(request)
            self._hand_back()
        except Exception as error:
            next(iter(self._part_of.values())).backend.log_error("The worker's end was not orderly", error)
        finally:
            done.open()

    def _leave(self, request: Any) -> None:
        """Put right what is known of an item whose run is cut, and name it."""
        part = self._part_of.get(request.name)
        if part is None:
            return  # it is a task of Celery's own
        owner = running.get(request.id)
        if owner is not None and not owner.lock.acquire(timeout=_FOR_A_LOCK):  # and it is never given back
            return
        events = Events(part.app)
        try:
            records = part.celery.records
            record = records.read(request.id)
            if record is None or record.status is not Status.RUNNING:
                return
            # A message may be here whose run is another worker's, which has lost its connection.
            if not Life(part.celery.cluster.client).is_elsewhere(request.id):
                records.write(request.id, record._replace(status=Status.QUEUED, attempt=record.attempt - 1))
                events.requeued(request.id, record.task, time.time() - record.enqueued)
        except BrokerError as error:
            events.log_error(f"What is known of item {request.id} could not be put right", error)

    def _hand_back(self) -> None:
        """Redis would wait for the visibility timeout. Others see that the connection is gone."""
        consumer = self._worker.consumer.task_consumer
        channel: Any = consumer and consumer.channel
        if not hasattr(getattr(channel, "qos", None), "restore_by_tag"):
            return
        if self._worker.pool.__module__ != "celery.concurrency.solo":  # there the main thread has read it
            end = time.monotonic() + _LAST_MESSAGE
            while channel._in_poll and self._worker.blueprint.state == RUN and time.monotonic() < end:
                native.sleep(0.02)
            if channel._in_poll:  # Redis may have sent one more, and nobody would read it any more
                with suppress(Empty):
                    channel._brpop_read()
        for tag in tuple(channel.qos._delivered):
            channel.qos.restore_by_tag(tag, leftmost=True)
        if hasattr(channel.qos, "give_back"):
            channel.qos.give_back()

    def _processes(self) -> list[int]:
        """The pool's, if it has some."""
        pool = getattr(self._worker.pool, "_pool", None)
        return [process.pid for process in tuple(getattr(pool, "_pool", ()))]


def _unfinished() -> set[Any]:
    """What Celery has taken and not ended. The main thread may change its sets meanwhile."""
    while True:
        try:
            return {*state.reserved_requests, *state.active_requests}
        except RuntimeError:
            pass


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
