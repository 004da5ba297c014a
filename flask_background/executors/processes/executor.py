"""Items in child processes: they slow no request down, and can be stopped whatever they do.

Each thread of this executor attends to one child, and waits for it while an item runs there. So everything
about an item stays in the parent, as for items on threads: its claim, status, token and timers, its attempts,
the journal. Only the function is called in the child, by the same ``runner.perform``.

Children are started by spawn, as ``multiprocessing`` calls it: a new interpreter, never a fork of a process
that has threads. Each child has two pipes to its parent, and shares nothing with other children.

Two maintained libraries offer more of this, and in both one child can harm the others. loky's executor breaks
as a whole when a child dies. Pebble's pool replaces the child, but all children share two pipes and their
locks: a child that is killed while it sends its result (which is when it needs the most memory) keeps a lock,
and no item of that pool ever runs again. Nor can Pebble's pool be used from a native thread under gevent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from flask_background.core.runner import Perform, Run
from flask_background.core.status import Outcome, Status
from flask_background.errors import BackgroundError, ConfigurationError, ItemCancelledError, ItemCrashedError
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.app_location import locate
from flask_background.executors.processes.call import Call, Killed, NotBegun, host_of, parcel_of
from flask_background.executors.processes.child_log import LogReceiver, log_levels
from flask_background.executors.processes.child_process import ChildProcess, Dead
from flask_background.executors.processes.packing import unpack
from flask_background.executors.processes.starts import Starts
from flask_background.executors.threads import ThreadExecutor

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem
    from flask_background.core.settings import Settings


# How long after an item its child is assumed to be alive, in seconds, because a check costs a switch of
# threads.
_FRESH = 0.5
# How long all children may take to say where they are when the grace period is over, in seconds.
_SAY_WITHIN = 0.15


class ProcessExecutor(ThreadExecutor):
    """Runs functions in at most ``capacity`` child processes, which are started as the load requires."""

    def __init__(
        self, name: str, app: Flask, settings: Settings, perform: Perform, tasks: Mapping[str, Callee]
    ) -> None:
        options = settings.executors[name]
        super().__init__(name, options.capacity, perform, _adopt_nothing)
        self._app = app
        self._tasks = tasks
        self._options = options
        self._location: str | None = None
        self._settings = settings
        self._pid = os.getpid()
        self.kill_after = settings.kill_after
        self.max_items = options.max_items
        self.is_over = False
        self.children: set[ChildProcess] = set()
        self.calls: set[Call] = set()
        self.starts = Starts(self)

    def check(self, task: Callee) -> None:
        known = self._tasks.get(task.name)
        if known is None or known.func is not task.func:
            raise ConfigurationError(
                f"task {task.name} names the executor {self.name!r}, whose child processes find a task by its"
                " name, and there is another task of this name: give it a name, @background.task(name=...)"
            )
        self.setup()

    def prepare(self, item: WorkItem[Any]) -> None:
        self.check(item._task)
        # Packed in the view, because the view has to get the refusal, and may change an argument later.
        item._take_arguments((parcel_of(item),))

    def arguments_of(self, item: WorkItem[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        parcel = parcel_of(item)
        return unpack(parcel.pickled, parcel.uploads)  # this process has packed them itself

    def setup(self) -> parcels.Setup:
        """Return the first message to a child; raise ConfigurationError if no child could find the app."""
        if self._location is None:
            self._location = locate(self._app, self._settings.app)
        return parcels.Setup(self._location, self._options.nice, self._options.max_memory, {})

    def run_here(self, item: WorkItem[Any]) -> None:
        self.put(item)

    def start_beside(self, item: WorkItem[Any]) -> bool:
        return False  # nobody waits in a child for an item in memory

    def abort(self) -> None:
        """Kill the busy children, and log where they were; their items are interrupted."""
        self.is_over = True
        if self._pid != os.getpid():
            return
        calls, end = tuple(self.calls), time.monotonic() + _SAY_WITHIN
        for call in calls:
            call.child.ask_where()
        for call in calls:
            call.tell_kill("the grace period is over", end - time.monotonic())
        for child in tuple(self.children):
            child.kill()

    def _run_items(self) -> None:
        get, perform = self._queue.get, self._perform
        attendant = Attendant(self)
        try:
            while (item := get()) is not None:
                self._waiting.pop(item.id, None)
                # An item that was withdrawn is not worth a child.
                if item.id not in self.queued or attendant.prepare(item):
                    perform(item, self._adopt, attendant.call)
                    attendant.look_after_child()
                item = None
        finally:
            attendant.let_child_go()


class Attendant:
    """One thread of the executor: it has one child at a time, and one item."""

    def __init__(self, executor: ProcessExecutor) -> None:
        self._executor = executor
        self._child: ChildProcess | None = None
        self._used = 0.0
        self._calls = 0  # of this child
        self._is_spent = False
        self._trouble: Exception | None = None
        self._log = LogReceiver()

    def prepare(self, item: WorkItem[Any]) -> bool:
        """See to it that there is a child, before the item begins: the time that takes is not the item's.

        False if the item is not to begin: there is no child, and the item was left in the journal.
        """
        if self._child is not None and time.monotonic() - self._used < _FRESH:
            return True
        starts, host = self._executor.starts, host_of(item)
        if self._child is None and host.keeps_items and (seconds := starts.seconds_left()) > 0:
            host.put_off(item, seconds)
            return False
        self._have_child()
        if self._trouble is None or self._executor.is_over:
            return True
        seconds = starts.failed(host, self._trouble)
        if not host.keeps_items:
            return True
        host.put_off(item, seconds)
        return False

    def _have_child(self) -> None:
        """Start a child if there is none that is alive; the trouble with that is kept for the item."""
        self._trouble = None
        child = self._child
        if child is not None:
            if child.is_alive():
                return
            self.let_child_go()
        self._calls, self._is_spent = 0, False
        try:
            setup = self._executor.setup()._replace(log_levels=log_levels())
            child = self._child = ChildProcess(setup)
            self._executor.children.add(child)
            if self._executor.is_over:  # the thread that set this flag may have missed this child
                child.kill()
            child.make_ready()
            self._executor.starts.succeeded()
        except Exception as error:
            self._trouble = error
            self.let_child_go()

    def look_after_child(self) -> None:
        """Part with a child that has no memory left, or has run as many items as it may."""
        if self._is_spent:
            self.let_child_go()

    def let_child_go(self) -> None:
        """End the child, and have none."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
            self._executor.children.discard(child)

    def call(self, item: WorkItem[Any]) -> Outcome:
        """Have the child call the item's function, and wait for the outcome."""
        try:
            try:
                return self._call(item)
            except NotBegun:  # the child died after its last item, perhaps because of that item
                self.let_child_go()
                self._have_child()
                host = host_of(item)
                if self._trouble is not None and host.keeps_items and not self._executor.is_over:
                    self._executor.starts.failed(host, self._trouble)
                    return Status.INTERRUPTED, None, None  # the item was not begun: that is no attempt
                return self._call(item)
        except (Dead, NotBegun) as dead:
            self.let_child_go()
            if self._executor.is_over:
                raise _cut_short(item) from None
            error = ItemCrashedError(f"{dead} while it ran item {item.id} ({item.task_name})")
            if isinstance(dead, Dead) and dead.where:
                error.add_note(f"it was here:\n{dead.where}")
            raise error from None
        except Killed as killed:
            self.let_child_go()
            raise ItemCancelledError(str(killed), item.token) from None

    def _call(self, item: WorkItem[Any]) -> Outcome:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise _cut_short(item) if self._executor.is_over else trouble
        assert self._child is not None
        call = Call(self._child, item, self._executor.kill_after, self._log)
        message = call.message()
        self._executor.calls.add(call)
        try:
            outcome = call.run(message)
        except (Dead, NotBegun, Killed):
            raise
        except BaseException:
            self._child.kill()  # the child may go on with this item, and must not answer for the next one
            self.let_child_go()
            raise
        finally:
            self._executor.calls.discard(call)
        self._used = time.monotonic()
        self._calls += 1
        self._is_spent = call.has_spent_child or self._calls == self._executor.max_items
        return outcome


def _cut_short(item: WorkItem[Any]) -> BackgroundError:
    return ItemCancelledError("its child process was killed when the grace period was over", item.token)


def _adopt_nothing(run: Run, awaitable: Awaitable[Any]) -> None:
    raise AssertionError("what is awaited is awaited in the child")
