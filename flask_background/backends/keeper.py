"""The thread that keeps this process's part of the journal: it sleeps until something concerns it.

It is woken by a byte in its FIFO (items that are free to claim, an item that somebody wants cancelled), by the
death of a sibling (the kernel tells), or when an item or a schedule is due. A look every few seconds stands
behind that as a net.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from .. import native
from ..errors import JournalError
from ..journal import store
from ..journal.wake import Bell

if TYPE_CHECKING:
    from .durable import DurableBackend

# The net, in seconds; and how long to wait when the journal cannot be read or written.
_NET = 5.0
_TROUBLE = 1.0
# Ended items are let go of so often, and so many at a time.
_PRUNE_EVERY = 60.0
_PRUNED = 500


class Keeper:
    """Recovers, claims, cancels, fires schedules and prunes, for one app in one process."""

    def __init__(self, backend: DurableBackend) -> None:
        self._backend = backend
        self._bell: Bell = backend.owner.bell
        self._closed = False
        self._pruned = 0.0
        self._in_trouble = False

    def start(self) -> None:
        """Look once, and then whenever there is a reason."""
        native.start_thread(self._run, "background-keeper")

    def ring(self) -> None:
        """There is a reason."""
        self._bell.ring()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._bell.ring()
