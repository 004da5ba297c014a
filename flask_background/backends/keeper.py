"""The thread that keeps this process's part of the journal: it sleeps until something concerns it.

It is woken through its FIFO (an item is free to claim, somebody wants one cancelled), by the death of a
sibling (the kernel tells), and when an item or a schedule is due. A look every few seconds stands behind that
as a net.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from .. import native
from ..errors import JournalError
from ..journal import store
from ..schedule import catch_up
from .base import Phase

if TYPE_CHECKING:
    from .durable import DurableBackend

# The net, in seconds; and how long to wait when the journal cannot be read or written.
_NET = 5.0
_TROUBLE = 1.0
# Items that have ended long ago are let go of so often, and so many at a time.
_PRUNE_EVERY = 60.0
_PRUNED = 500


class Keeper:
    """Recovers, claims, cancels, fires schedules and prunes, for one app in one process."""

    def __init__(self, backend: DurableBackend) -> None:
        self._backend = backend
        self._closed = False
        self._pruned_at = 0.0
        self._in_trouble = False

    def start(self) -> None:
        """Look once, and then whenever there is a reason."""
        native.start_thread(self._run, "background-keeper")

    def ring(self) -> None:
        """There is a reason."""
        self._backend.owner.ring()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self.ring()

    def _run(self) -> None:
        owner = self._backend.owner
        dead: list[str] = owner.dead()
        while not self._closed:
            try:
                timeout = self._look(dead)
                self._in_trouble = False
            except Exception as error:
                if not self._in_trouble:  # once is enough
                    self._backend.trouble("The journal cannot be kept; this goes on when it can be", error)
                self._in_trouble = True
                timeout = _TROUBLE
            dead = owner.wait(timeout)

    def _look(self, dead: list[str]) -> float:
        """Do what there is to do; seconds until there may be more."""
        backend = self._backend
        for name in dead:
            self._recover(name)
        now = time.time()
        for item_id in backend.writer.read(partial(store.cancels, owner=backend.owner.id)):
            backend.cancel_here(item_id)
        if backend.runs_items and backend.local.ledger.phase is Phase.RUNNING:
            self._fire(now)
            backend.claim(now)
        if now - self._pruned_at >= _PRUNE_EVERY:
            self._pruned_at = now
            backend.prune(now, _PRUNED)
        due = backend.writer.read(partial(store.next_due, now=now))
        return _NET if due is None else min(_NET, max(0.0, due - time.time()))

    def _recover(self, name: str) -> None:
        """Free the items of a process that is dead."""
        backend = self._backend
        takeover = backend.owner.take_over(name)
        if takeover is None:
            return  # another process does it
        with takeover:
            step = partial(
                store.recover, owner=name, running=takeover.running, charged=takeover.charged, now=time.time()
            )
            recovered = backend.writer.do(step)
            takeover.done()
        for entry in recovered.parked:
            backend.local.events.parked(backend.handle(entry), entry.reason or "")
        if recovered.released:
            backend.call_others()

    def _fire(self, now: float) -> None:
        """Enqueue the periodic tasks that are due."""
