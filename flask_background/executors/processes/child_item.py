"""One call of one item inside a child process: it runs as in any process, and reports to the parent."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from flask_background.concurrency import native
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.await_here import await_here
from flask_background.core.item import PlaceLender, WorkItem
from flask_background.core.odd_errors import add_note, let_frames_go
from flask_background.core.run_host import RunHost
from flask_background.core.runner import perform
from flask_background.core.status import Attempt, Outcome, Progress, Status
from flask_background.core.throttle import Throttle
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import WaitError
from flask_background.executors.processes import memory
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.child_listener import Job, flush
from flask_background.executors.processes.child_log import LogForwarder
from flask_background.executors.processes.packing import receive_upload, unpack
from flask_background.executors.processes.pipes import Pipes

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.events import Events
    from flask_background.core.registry import Registry

# The shortest time between two progress reports to the parent, in seconds.
_REPORT_EVERY = 0.05


class ChildItem(WorkItem[Any]):
    """The item, as its function sees it. Its reports go to the parent."""

    __slots__ = ()

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report the progress of the run."""
        super().report_progress(done, total, message)
        if self._host.pid == os.getpid():  # not in a process that the item has forked
            cast(ChildHost, self._host).report()


class _NothingToLend:
    """The parent, which starts items, does not know that a child waits: its place cannot be lent."""

    def check_wait(self, waiting: WorkItem[Any], awaited: WorkItem[Any], timeout: float | None) -> None:
        """Refuse a wait that might never end: for an item that needs a child of the same executor."""
        executor = awaited._task.executor
        if timeout is None and executor == waiting._task.executor and not awaited.status.is_final:
            raise WaitError(
                f"item {waiting.id} ({waiting.task_name}) waits in a child process for item {awaited.id}"
                f" ({awaited.task_name}), which needs a child of the same executor {executor!r}: once all"
                " children wait, none would end. Give the awaited task another executor, or wait with a"
                " timeout"
            )

    def wait(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], latch: native.Latch, timeout: float | None
    ) -> bool:
        self.check_wait(waiting, awaited, timeout)
        return latch.wait(timeout)

    async def wait_async(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], wait: Callable[[], Awaitable[object]]
    ) -> None:
        self.check_wait(waiting, awaited, None)
        await wait()


class ChildHost(RunHost):
    """The host of one item in a child: runs the item, and reports to its real host in the parent."""

    decides_retries = False
    lending: PlaceLender | None = _NothingToLend()

    # What most runs never set is not set for each run.
    _sent: Progress | None = None
    _outcome: Outcome | None = None
    _has_returned = False

    def __init__(
        self, app: Flask, registry: Registry, events: Events, pipes: Pipes, log: LogForwarder, job: Job
    ) -> None:
        super().__init__(app, events, _timers, native.new_lock(), registry.around_item)
        self._tasks = registry.tasks
        self._pipes = pipes
        self._log = log
        self._job = job
        self._progress = Throttle(_REPORT_EVERY, _timers)
        self._uploads: list[Any] = []

    def run(self) -> None:
        """Run the item to its end, and report its outcome. An error raised by this method ends the child."""
        call = self._job.take_call()
        self._log.begin()
        memory.set_reserve_aside()
        try:
            perform(self._make_item(call), await_here)
        except BaseException as error:
            memory.release_reserve()
            let_frames_go(error)  # perhaps these variables hold all the memory that there is
            if self._outcome is None:
                add_note(error, f"in work item {call.item_id} ({call.task})")
                self._outcome = Status.FAILED, None, error
            else:
                self.log_error(
                    f"Cleaning up after item {call.item_id} ({call.task}) failed", error, call.item_id
                )
        if os.getpid() != self.pid:
            flush()
            os._exit(0)  # a process that the item has forked must not answer the parent
        with self.lock:
            outcome, self._outcome = self._outcome, None
            self._has_returned = True
        if outcome is not None:
            self._tell_end(outcome)

    def _make_item(self, call: parcels.Call) -> ChildItem:
        task: Any = self._tasks.get(call.task)
        if task is None:
            raise LookupError(
                f"the app has no task {call.task!r} in a child process, which loads the app again: make the"
                " task at the top of a module that the app imports, or in its factory, not in a view or under"
                " a condition"
            )
        if task.timeout != call.timeout or task.executor != call.executor:
            task = task.using(timeout=call.timeout, executor=call.executor)
        self._uploads += map(receive_upload, call.uploads)
        args, kwargs = unpack(call.pickled, self._uploads)
        item = ChildItem(task, args, kwargs, parcels.state_of(call.state), self)
        item._identify(call.item_id, call.enqueued)
        item._describe(call.description)
        return item

    # For the run.

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        """Return True: the parent has claimed the item."""
        attempt.number, attempt.started = self._job.attempt.number, self._job.attempt.started
        item._set_source(self._job.source)
        self._job.attempt = attempt  # cancellation aborts the run through this attempt
        item._begin(attempt)
        return True

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Return a timer that does nothing: the parent has the timer for the run."""
        return Timer(time.monotonic() + seconds, 0, lambda: None)

    def cancel_timer(self, timer: Timer) -> None:
        """Do nothing: the parent cancels its timer."""

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        """Return False: the parent decides whether another run follows."""
        return False

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Report the outcome, once this process is free for another item.

        A coroutine may have left tasks on its event loop that are not done; the time that they take counts as
        the item's.
        """
        with self.lock:
            if not self._has_returned:
                self._outcome = outcome
                return
        self._tell_end(outcome)  # a Future was awaited

    # For the item.

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Cancel the item on its own request."""
        with self.lock:  # under the lock, or the parent would apply the request to its next item
            if self._job.over or self.pid != os.getpid():
                return False
            self._pipes.send(parcels.CancelledSelf())
        self._job.ask_to_end(CancelReason.REQUESTED)
        return True

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """Return the write side of the item's token."""
        return self._job.source

    def report(self) -> None:
        """Send the item's progress to the parent."""
        self._progress.call(self._report)

    def _report(self) -> None:
        with self.lock:
            progress = self._job.attempt.progress
            if progress is not None and progress is not self._sent and not self._job.over:
                self._sent = progress
                try:
                    self._pipes.send(parcels.ProgressReported(*parcels.progress_as_data(progress)))
                except Exception as error:  # such as numbers of a class that is no number
                    self.log_error("A progress could not be reported", error)

    def _tell_end(self, outcome: Outcome) -> None:
        error = outcome[2]
        if error is not None:
            memory.release_reserve()
            let_frames_go(error)
        self._report()
        ended = parcels.end(outcome)
        is_measured = error is not None or not ended.text  # a value that is not sent takes unknown room
        if is_measured and memory.is_used_up(error, ended.pickled):
            ended = ended._replace(is_spent=True)
        for upload in self._uploads:
            upload.close()
        self._log.end()
        flush()  # the child may be killed before it prints more
        with self.lock:
            self._job.over = True
        try:
            self._pipes.send(ended)
        except MemoryError:  # raised while the message was made; nothing has been sent
            text = (
                ended.text or "the result cannot be sent from its child process: there is no memory for that"
            )
            self._pipes.send(ended._replace(pickled=None, text=text))


_timers = Timers()
