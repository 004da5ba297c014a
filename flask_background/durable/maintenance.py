"""The thread that keeps this process's part of the journal: it sleeps until something concerns it.

It is woken through its FIFO (an item is free to claim, somebody wants one cancelled), by the death of a
sibling (the kernel tells), and when an item or a schedule is due. A look every few seconds stands behind that
as a net.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.backend import Phase
from flask_background.core.status import Status
from flask_background.durable.journal import outbox, process_lock, queries, schedules, statements, wakeups
from flask_background.durable.journal.watch import ProcessWatch
from flask_background.errors import ConfigurationError
from flask_background.local.admission import check_here

if TYPE_CHECKING:
    from flask_background.durable.backend import DurableBackend
    from flask_background.durable.journal.row import ItemRow
    from flask_background.task import Task

# The net, in seconds; and how long to wait when the journal cannot be read or written.
_NET = 5.0
_TROUBLE = 1.0
# What is not urgent is looked at so often.
_LOOK_OVER_EVERY = 60.0
# Items that ended long ago are let go of so many at a time, and others may write for so long in between.
_PRUNED = 500
_BREATH = 0.05
# Files of an item that the journal does not know may be about to be entered; not for so long.
_ORPHANED = 3_600.0


class JournalMaintenance:
    """Recovers, claims, cancels, fires schedules and prunes, for one app in one process."""

    def __init__(self, backend: DurableBackend) -> None:
        self._backend = backend
        self._folder = backend.owner.folder
        self._watch = ProcessWatch(backend.owner)
        self._closed = False
        self._ended = native.Latch()
        #: Opens when all has been looked at once, a dead process's items among them.
        self.has_looked = native.Latch()
        self._looked_over_at = 0.0
        self._in_trouble = False
        # Whether there may be more to let go of than the last look has.
        self._prunes = False
        self._scheduled: set[str] = set()
        self._unfit: set[str] = set()
        native.start_thread(self._run, "background-keeper")

    def ring(self) -> None:
        """There is a reason to look."""
        wakeups.wake(self._backend.owner.fifo_path)

    def close(self, timeout: float) -> bool:
        """End the thread; says whether it has ended, after timeout seconds at most."""
        self._closed = True
        self.ring()
        return self._ended.wait(timeout)

    def _run(self) -> None:
        try:
            self._keep()
        finally:
            self._watch.close()
            self._ended.open()
            self.has_looked.open()

    def _keep(self) -> None:
        dead: list[str] | None = None
        while not self._closed:
            try:
                timeout = self._look(self._watch.dead() if dead is None else dead)
                self.has_looked.open()
                dead = self._watch.wait(timeout)
                self._in_trouble = False
            except Exception as error:  # of the journal, or because there are no descriptors left, say
                if not self._in_trouble:  # once is enough
                    self._backend.log_error("The journal cannot be kept; this goes on when it can be", error)
                self._in_trouble = True
                dead = None
                native.sleep(_TROUBLE)

    def _look(self, dead: list[str]) -> float:
        """Do what there is to do; seconds until there may be more."""
        backend, now = self._backend, time.time()
        backend.writer.resume()
        for name in dead:
            self._recover(name)
        for item_id in backend.writer.read(partial(queries.cancels, owner=backend.owner.id)):
            backend.cancel_here(item_id)
        if backend.runs and backend.local.ledger.phase is Phase.RUNNING:
            self._fire(now)
            backend.claim(now)
        backend.outbox.look()
        if abs(now - self._looked_over_at) >= _LOOK_OVER_EVERY:
            self._looked_over_at = now
            self._look_over(now)
            self._prunes = True
        if self._prunes:
            self._prunes = self._prune(now)
        periodic = list(backend.registry.periodic) if backend.runs else []
        next_due = partial(queries.next_due, now=now, executors=backend.runs, periodic=periodic)
        due = backend.writer.read(next_due)
        most = _BREATH if self._prunes else _NET
        return most if due is None else min(most, max(0.0, due - time.time()))

    def _recover(self, name: str) -> None:
        """Free the items of a process that is dead."""
        backend = self._backend
        takeover = process_lock.take_over(self._folder, name)
        if takeover is None:
            return  # another process does it
        with takeover:
            step = partial(
                statements.recover,
                owner=name,
                running=takeover.running,
                charged=takeover.charged,
                now=time.time(),
            )
            released, ended = backend.writer.write(step)
            takeover.remove_files()
        for entry in ended:
            backend.tell_end(entry)
        if released:
            backend.local.events.recovered(released, name)
            backend.call_others()

    def _fire(self, now: float) -> None:
        """Enqueue the periodic tasks that are due."""
        backend = self._backend
        periodic = backend.registry.periodic
        for name, (task, schedule) in periodic.items():
            if name not in self._scheduled and self._is_fit(task):
                first = partial(
                    schedules.schedule, name=name, spec=repr(schedule), first=schedule.next_after(now)
                )
                backend.writer.write(first)
                self._scheduled.add(name)
        for name, planned in backend.writer.read(partial(queries.planned, now=now)).items():
            if name in periodic and name in self._scheduled:
                task, schedule = periodic[name]
                following = schedule.catch_up(planned, now)
                entry = backend.periodic_entry(task, planned)
                backend.writer.write(
                    partial(schedules.fire, name=name, planned=planned, following=following, row=entry)
                )

    def _is_fit(self, task: Task[..., Any]) -> bool:
        """Whether a periodic task has an executor; else its items would only pile up."""
        if task.name in self._unfit:
            return False
        try:
            check_here(task, self._backend.local.executors)
        except ConfigurationError as error:
            self._unfit.add(task.name)  # once is enough
            self._backend.log_error(f"The periodic task {task.name} does not run", error)
            return False
        return True

    def _follow_clock(self, now: float) -> None:
        """Where the clock was set back, periodic tasks need not wait until it is where it was."""
        backend = self._backend
        for name, planned in backend.writer.read(partial(queries.planned, now=math.inf)).items():
            if name in backend.registry.periodic:
                _, schedule = backend.registry.periodic[name]
                # By less than a period, and they do: nothing is run twice because clocks are adjusted.
                if planned > schedule.next_after(schedule.next_after(now)):
                    following = schedule.catch_up(planned, now)
                    backend.writer.write(
                        partial(schedules.reschedule, name=name, planned=planned, following=following)
                    )

    def _prune(self, now: float) -> bool:
        """Let go of some items that ended long ago; says whether there may be more."""
        backend = self._backend
        step = partial(statements.prune, before=now - backend.keep, limit=_PRUNED)
        gone = backend.writer.write(step, sync=False)
        for item_id in gone:
            backend.packing.forget(item_id)
        gone_too = backend.writer.write(
            partial(outbox.prune, before=now - backend.keep, limit=_PRUNED), sync=False
        )
        return len(gone) == _PRUNED or gone_too == _PRUNED

    def _look_over(self, now: float) -> None:
        """Recover what has no owner any more, and park what nobody can run."""
        backend = self._backend
        self._follow_clock(now)
        if (error := backend.writer.take_checkpoint_error()) is not None:
            backend.log_error("The journal's WAL cannot be copied back, and grows until it can be", error)
        process_lock.sweep(self._folder)
        for name in backend.writer.read(queries.owners):
            if not process_lock.exists(self._folder, name):  # somebody, or a power cut, has removed its file
                recovered = backend.writer.write(partial(statements.recover, owner=name, running=(), now=now))
                backend.local.events.recovered(recovered.released, name)
                backend.call_others()
        for item_id in backend.packing.orphans(now - _ORPHANED):
            if backend.look(item_id) is None:
                backend.packing.forget(item_id)
        backend.outbox.warn_if_stuck()
        tasks, executors = list(backend.registry.tasks), list(backend.local.executors)
        unknown = partial(queries.unknown, tasks=tasks, executors=executors, now=now)
        for entry in backend.writer.read(unknown):
            if (reason := self._why_nobody_runs(entry)) is not None:
                step = partial(statements.park, item_id=entry.id, fence=entry.fence, reason=reason, now=now)
                if backend.writer.write(step):
                    backend.tell_end(entry._replace(status=Status.FAILED, reason=reason))

    def _why_nobody_runs(self, entry: ItemRow) -> str | None:
        """Why no process can run an item; None if one can that is perhaps about to."""
        others = process_lock.others(self._folder)
        if any(process_lock.knows(self._folder, name, entry.task, entry.executor) for name in others):
            return None
        has_task = entry.task in self._backend.registry.tasks
        if has_task or any(process_lock.knows(self._folder, name, entry.task) for name in others):
            return f"no process of the app that has this task has an executor named {entry.executor!r}"
        return f"no process of the app has a task named {entry.task!r}"
