"""Looks after the runs of all processes of a worker, on a thread of the main process.

Twice a second it shows that they are alive, learns which of them somebody wants to end, finds those whose
process has died, and ends those that are left when the grace period is over.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flask_background.celery.worker.lost import settle_lost
from flask_background.celery.worker.periodic import Periodic
from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.worker.run_table import Row, RunTable

# How long after the grace period a child that has not ended its item is killed, in seconds.
_LAST = 2.0
# How long a signal takes that stops a child, at most, in seconds.
_STOPPED = 1.0


class Supervisor(Periodic):
    """Looks after the runs of a worker's processes, by connections of its own."""

    name, trouble = "supervisor", "Running items"

    def __init__(self, table: RunTable, backends: Sequence[CeleryBackend]) -> None:
        super().__init__(backends[0].session.events)
        self._table = table
        self._backends = {backend.session.home: backend for backend in backends}
        self._records = backends[0].session.apart().records
        self._has_warned = False

    def look(self) -> bool:
        alive: list[Row] = []
        for row in list(self._table.rows()):
            if self._table.is_dead(row):
                self._settle(row)
            else:
                alive.append(row)
        stops_at = self._table.stops_at()
        if stops_at is not None and time.monotonic() >= stops_at + _LAST:
            self._end(alive)
        if alive:
            wanted = self._records.beat([row.run for row in alive], is_stopping=stops_at is not None)
            for row, is_wanted in zip(alive, wanted, strict=True):
                if is_wanted:
                    self._table.want(row.number)
        return False

    def _end(self, rows: Sequence[Row]) -> None:
        """End what is left in children; a thread cannot be ended from outside."""
        for row in rows:
            if row.pid != os.getpid():
                self._end_child(row)
            elif not self._has_warned:
                self._has_warned = True
                self._backends[row.home].session.events.beyond_grace(row.run.item_id)

    def _end_child(self, row: Row) -> None:
        """Kill a child that runs this item, and nothing else: it is stopped first, and looked at then."""
        with suppress(ProcessLookupError):
            os.kill(row.pid, signal.SIGSTOP)
            if _is_stopped(row.pid) and self._table.row(row.number) == row:
                os.kill(row.pid, signal.SIGKILL)
                self._settle(row)
            else:
                os.kill(row.pid, signal.SIGCONT)

    def _settle(self, row: Row) -> None:
        """Put on record that the process of a run is dead. That its worker stops is on record already."""
        settle_lost(self._backends[row.home], self._records, row.run, time.time(), is_certain=True)


def _is_stopped(pid: int) -> bool:
    """Whether a process that got SIGSTOP has stopped; False where the system does not say so."""
    end = time.monotonic() + _STOPPED
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "T":
            return True
        native.sleep(0.005)
    return False
