"""What a child process of a process executor runs: it loads the app, and runs one item after the other.

The main thread runs the items; another one listens to the parent, so that a token fires while an item runs,
and the child ends at once when its parent has, even by ``kill -9``.
"""

from __future__ import annotations

import _thread
import ctypes
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from flask.cli import locate_app

from . import native
from .alarms import Alarm, Alarms
from .executors import parcels
from .executors.children import SIGNALS
from .executors.listening import Job, Listener
from .executors.pipes import Pipes
from .item import WorkItem
from .part import AppPart
from .runner import Run, perform
from .status import Attempt, Outcome, Progress, Status
from .token import CancellationSource, CancelReason

if TYPE_CHECKING:
    from _thread import LockType

    from flask import Flask

    from .registry import Registry

# From <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
# An item may report its progress as often as it likes; the parent hears of it so often, in seconds.
_REPORT_EVERY = 0.05
_MIB = 1 << 20


def main(inbound: int, outbound: int, parent: int) -> NoReturn:
    """Serve the parent, which has given us these two pipes, until it ends."""
    for number in SIGNALS:
        signal.signal(number, _do_nothing)  # no SIG_IGN: what an item starts would inherit that
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.register_at_fork(after_in_child=_heed_signals)
    os.setpgid(0, 0)  # so that it is killed with what its items have started
    _end_with(parent)
    for pipe in (inbound, outbound):
        os.set_inheritable(pipe, False)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what an item has printed is not lost when it is killed
        sys.stdout.reconfigure(line_buffering=True)
    pipes = Pipes(inbound, outbound)
    setup = pipes.receive()
    assert isinstance(setup, parcels.Setup)
    os.nice(setup.nice)
    if setup.max_memory is not None:
        _limit_memory(setup.max_memory * _MIB)
    listener = Listener(pipes)
    # Not by threading: an app that gevent patches as it is loaded needs to be alone there.
    _thread.start_new_thread(listener.run, ())
    try:
        app = load(setup.location)
    except BaseException:
        pipes.send(parcels.Started(traceback.format_exc()))
        os._exit(1)
    pipes.send(parcels.Started(None))
    registry: Registry = app.extensions["background"].owner.registry
    while True:
        job = listener.jobs.get()
        ChildOwner(app, pipes, job).run(registry)
        job = None  # type: ignore[assignment]  # or an idle child would keep its last item alive


def load(location: str) -> Flask:
    """Load the app as ``flask --app`` does, but for the path: the parent's has been taken over."""
    AppPart.in_child = True
    module, _, name = location.partition(":")
    app = locate_app(module, name or None)
    if "background" not in app.extensions:
        raise RuntimeError(f"{location!r} is an app without a Background")
    return app


class ChildItem(WorkItem[Any]):
    """The item, as its function sees it. What it says goes to the parent."""

    __slots__ = ()

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is."""
        super().report_progress(done, total, message)
        cast(ChildOwner, self._keeper).report()


class ChildOwner:
    """What a run and its item need of whoever holds the item, which is the parent's backend."""

    def __init__(self, app: Flask, pipes: Pipes, job: Job) -> None:
        self.app = app
        self.pid = os.getpid()
        self.lock: LockType = native.new_lock()
        self._pipes = pipes
        self._job = job
        self._reported_at = -_REPORT_EVERY
        self._sent: Progress | None = None
        self._uploads: list[Any] = []

    def run(self, registry: Registry) -> None:
        """Run the item to its end, and tell that. Raises nothing."""
        call = self._job.take_call()
        try:
            item = self._make_item(registry, call)
        except BaseException as error:
            error.add_note(f"in work item {call.item_id} ({call.task})")
            self._tell_end((Status.FAILED, None, error))
        else:
            perform(self, item, _await)
        finally:
            for upload in self._uploads:
                upload.close()

    def _make_item(self, registry: Registry, call: parcels.Call) -> ChildItem:
        task: Any = registry.tasks.get(call.task)
        if task is None:
            raise LookupError(
                f"the app has no task {call.task!r} in a child process, which has loaded it anew: make the"
                " task at the top of a module that the app imports, or in its factory, not in a view or under"
                " a condition"
            )
        if task.timeout != call.timeout:
            task = task.using(timeout=call.timeout)
        self._uploads += map(parcels.receive, call.uploads)
        args, kwargs = parcels.unpack(call.pickled, self._uploads)
        item = ChildItem(task, args, kwargs, parcels.state_of(call.state), self)
        item.id, item._enqueued = call.item_id, call.enqueued
        return item

    # For the run.

    def start(self, item: WorkItem[Any], run: Attempt) -> bool:
        """It was claimed by the parent."""
        item._source = self._job.source
        item._attempt, item.status = self._job.attempt, Status.RUNNING
        return True

    def set_alarm(self, item: WorkItem[Any], seconds: float) -> Alarm:
        """The parent has set it."""
        return Alarm(time.monotonic() + seconds, 0, _do_nothing)

    def cancel_alarm(self, alarm: Alarm) -> None:
        """The parent does."""

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Tell the outcome."""
        self._tell_end(outcome)

    def trouble(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.app.logger.getChild("background").error("%s", what, exc_info=error)

    # For the item.

    def cancel(self, item: WorkItem[Any]) -> bool:
        """It has cancelled itself."""
        if self._job.over:
            return False
        self._pipes.send(parcels.Withdrawn())
        self._job.ask_to_end(CancelReason.REQUESTED)
        return True

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of its token."""
        return self._job.source

    def report(self) -> None:
        """Let the parent know the progress, now and then; in the end the last one."""
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY:
            self._reported_at = now
            self._report()
        elif self._reported_at <= now:
            self._reported_at += _REPORT_EVERY  # the time of the next report, which is on its way
            _alarms.set(self._reported_at - now, self._report)

    def _report(self) -> None:
        with self.lock:
            progress = self._job.attempt.progress
            if progress is not None and progress is not self._sent and not self._job.over:
                self._sent = progress
                try:
                    self._pipes.send(parcels.Progressed(*progress))
                except Exception as error:  # such as numbers of a class that is not picklable
                    self.trouble("A progress could not be reported", error)

    def _tell_end(self, outcome: Outcome) -> None:
        if os.getpid() != self.pid:  # a fork that has left the item's function must not answer for it
            os._exit(1)
        self._report()
        with self.lock:
            self._job.over = True
        ended = parcels.end(outcome)
        try:
            self._pipes.send(ended)
        except MemoryError as wrong:  # nothing of it has been sent
            self._pipes.send(parcels.without_value(ended, wrong))


_alarms = Alarms()


def _await(run: Run, awaitable: Awaitable[Any]) -> None:
    """Await what a function has returned, or a coroutine function, on an event loop of its own."""
    import asyncio

    async def await_it() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        run.abortable(lambda: loop.call_soon_threadsafe(task.cancel))
        await run.await_outcome(awaitable)

    with asyncio.Runner() as runner:
        runner.run(await_it(), context=run.context)


def _end_with(parent: int) -> None:
    """Have the system end this process with its parent: one C call may hold up the thread that listens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that
        os._exit(0)


def _limit_memory(size: int) -> None:
    """What a process writes to, not what it maps: threads and libraries map much that they never use."""
    which = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _do_nothing(*_: object) -> None:
    pass


def _heed_signals() -> None:
    """What an item has forked, a multiprocessing.Pool say, is ended by signals."""
    for number in SIGNALS:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
