"""The thread that does this process's part of the journal's upkeep, and sleeps otherwise.

The thread is woken through the process's FIFO (an item is free to claim, an item has to be cancelled), by the
death of another process (the kernel reports it), and when an item or a schedule is due. As a safety net it
also looks every few seconds.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.backend import Phase
from flask_background.core.status import Status
from flask_background.durable.journal import queries, statements, takeover
from flask_background.durable.journal.failure import RemovedError
from flask_background.durable.journal.loads import LoadFile
from flask_background.durable.journal.row import first_id_after
from flask_background.durable.journal.watch import ProcessWatch
from flask_background.durable.periodic import PeriodicTasks
from flask_background.durable.recovery import Recovery
from flask_background.durable.removal import BREATH, Removal
from flask_background.durable.tally import TallyWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_background.durable.claiming import Claimer
    from flask_background.durable.handles import Handles
    from flask_background.durable.intake import Intake
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.outbox import Outbox
    from flask_background.durable.pauses import Pauses
    from flask_background.durable.runs import Runs
    from flask_background.durable.session import JournalSession

# The interval of the safety net, and the pause after the journal could not be read or written, in seconds.
_NET = 5.0
_TROUBLE = 1.0
# How soon the thread looks again while items wait here behind others, or for a task, in seconds.
_SOON = 0.5
# How often the thread does work that is not urgent, in seconds.
_LOOK_OVER_EVERY = 60.0
# How many items are looked at together that may have been enqueued while the clock was ahead.
_LATER = 1_000


class JournalMaintenance:
    """Recovers, claims, cancels, fires schedules and prunes, for one app in one process.

    ``keep``: how long an item is kept after its end; ``park_after``: how long an item that no process can run
    waits. Both are in seconds. ``load`` returns what this process has in memory.
    """

    def __init__(
        self,
        session: JournalSession,
        handles: Handles,
        runs: Runs,
        intake: Intake,
        claimer: Claimer,
        pauses: Pauses,
        outbox: Outbox,
        *,
        keep: float,
        park_after: float,
        load: Callable[[], dict[str, Any]],
    ) -> None:
        self._session = session
        self._local = session.local
        self._writer = session.writer
        self._registry = session.registry
        self._folder = session.process_lock.folder
        self._handles = handles
        self._runs = runs
        self._claimer = claimer
        self._pauses = pauses
        self._periodic = PeriodicTasks(session, intake)
        self.recovery = Recovery(session, handles)
        self._outbox = outbox
        self.removal = Removal(session, keep)
        self.tally = TallyWriter(session)
        self._park_after = park_after
        self._load, self._load_file = load, LoadFile(self._folder, session.process_lock.id)
        self._warned: set[str] = set()
        # Whether items wait for a task that may be imported a moment later.
        self._waits_for_tasks = False
        self._watch = ProcessWatch(session.process_lock)
        self._closed = False
        self._ended = native.Latch()
        #: Whether periodic tasks are enqueued: a burst runs what there is, and then ends.
        self.fires = True
        #: Opened when the thread has looked at everything once, including the items of dead processes.
        self.has_looked = native.Latch()
        self._looked_over_at = 0.0
        self._in_trouble = False
        # Whether there may be more to prune than the last look has pruned.
        self._prunes = False

    def start(self) -> None:
        """Start the thread."""
        native.start_thread(self._run, "background-keeper")

    def close(self, timeout: float) -> bool:
        """End the thread, and wait up to timeout seconds for it; return whether it has ended."""
        self._closed = True
        self._session.wake_self()
        return self._ended.wait(timeout)

    def _run(self) -> None:
        try:
            self._loop()
        finally:
            self._watch.close()
            self._ended.open()
            self.has_looked.open()

    def _loop(self) -> None:
        dead: list[str] | None = None
        while not self._closed:
            try:
                self._session.process_lock.restore()
                timeout = self._look(self._watch.dead() if dead is None else dead)
                self.has_looked.open()
                dead = self._watch.wait(timeout)
                self._in_trouble = False
            except Exception as error:  # of the journal, or for example for lack of descriptors
                if not self._in_trouble:  # one log line for each trouble
                    what = "The journal cannot be maintained; the next try follows"
                    self._local.log_error(what, error)
                self._in_trouble = True
                dead = None
                native.sleep(_TROUBLE)

    def _look(self, dead: list[str]) -> float:
        """Do all due work; return the seconds until more may be due."""
        session, now = self._session, time.time()
        self._writer.resume()
        if (error := self._writer.take_trouble()) is not None:
            what = "The journal's WAL cannot be copied back, and grows until it can be"
            if isinstance(error, RemovedError):
                what = "The journal was removed or replaced; items that only the old one had are lost"
            self._local.log_error(what, error)
        for name in dead:
            self.recovery.recover(name)
        for item_id in self._writer.read(partial(queries.cancels, owner=session.process_lock.id)):
            self._cancel_here(item_id)
        if self._watch.is_asked():
            with suppress(OSError):  # the process that has asked then sees no answer
                self._load_file.answer(self._load())
        self._follow_pauses()
        if session.executors and self._local.ledger.phase is Phase.RUNNING:
            if self.fires:
                self._periodic.fire(now)
            self._claimer.give_back_stuck()
            self._claimer.claim(now)
        self._outbox.look()
        self.tally.look(now)
        if abs(now - self._looked_over_at) >= _LOOK_OVER_EVERY:
            self._looked_over_at = now
            self._look_over(now)
            self._prunes = True
        if self._prunes:
            self._prunes = self.removal.prune(now)
        periodic = list(self._registry.periodic) if session.executors and self.fires else []
        executors = self._pauses.free_executors(session.executors)
        next_due = partial(queries.next_due, now=now, executors=executors, periodic=periodic)
        due = self._writer.read(next_due)
        looks_soon = self._waits_for_tasks or self._claimer.has_waiting()
        most = BREATH if self._prunes else _SOON if looks_soon else _NET
        return most if due is None else min(most, max(0.0, due - time.time()))

    def _cancel_here(self, item_id: str) -> None:
        """Cancel an item of this process on another process's request."""
        item = self._handles.known(item_id)
        if item is not None and item.here and not item._is_unwanted():
            self._runs.cancel_here(item)

    def _follow_pauses(self) -> None:
        """Learn what is paused now; leave items to other processes that must not start here."""
        self._pauses.look()
        for row in self._pauses.take_new():
            self._local.events.paused(row.kind, row.name, row.by)
        if self._pauses.any:
            self._claimer.give_back_paused()

    def _follow_clock(self, now: float) -> None:
        """Make items due that were enqueued without a delay while the clock was ahead."""
        after: str | None = first_id_after(now)
        while after is not None:
            later = partial(queries.enqueued_later, now=now, after=after, limit=_LATER)
            ids, after = self._writer.read(later)
            if ids:
                self._writer.write(partial(statements.make_due, item_ids=ids, now=now), sync=False)
                self._session.wake_all()

    def _look_over(self, now: float) -> None:
        """Recover items whose owner has no file left, and park items that no process could run for long."""
        self._follow_clock(now)
        self._periodic.follow_clock(now)
        takeover.sweep(self._folder)
        self.recovery.warn_of_strangers()
        self.recovery.recover_absent()
        self.removal.remove_orphans(now)
        self._outbox.warn_if_stuck()
        tasks, executors = list(self._registry.tasks), list(self._local.executors)
        if not self._session.executors:
            return  # this process only reads, and may not have imported all tasks
        self._waits_for_tasks = False
        unknown = partial(queries.unknown, tasks=tasks, executors=executors, now=now)
        for row in self._writer.read(unknown):
            if (reason := self._why_nobody_runs(row)) is None:
                continue
            if now - max(row.due, row.enqueued) < self._park_after:
                self._waits_for_tasks = True
                if reason not in self._warned:
                    self._warned.add(reason)
                    self._local.events.nobody_runs(reason, self._park_after)
                continue
            step = partial(statements.park, item_id=row.id, fence=row.fence, reason=reason, now=now)
            if self._writer.write(step):
                self._handles.announce_end(row._replace(status=Status.FAILED, reason=reason))

    def _why_nobody_runs(self, row: ItemRow) -> str | None:
        """Return why no process can run an item; None if a process can that may be about to."""
        others = takeover.others(self._folder)
        if any(takeover.knows(self._folder, name, row.task, row.executor) for name in others):
            return None
        has_task = row.task in self._registry.tasks
        if has_task or any(takeover.knows(self._folder, name, row.task) for name in others):
            return f"no process of the app that has this task has an executor named {row.executor!r}"
        return f"no process of the app has a task named {row.task!r}"
