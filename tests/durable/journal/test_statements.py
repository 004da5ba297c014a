"""The statements that change the journal, against a plain model of it, in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from flask_background.core.status import Status
from flask_background.durable.journal import ended_runs, queries, statements
from flask_background.durable.journal.counts import task_counts
from flask_background.durable.journal.database import Database
from flask_background.durable.journal.row import ItemRow

from ...properties import st
from ..rows import ROW

OWNERS = ("1-a", "2-b", "3-c")
LIVE = (Status.QUEUED, Status.RUNNING)
ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Journal(RuleBasedStateMachine):
    """Processes enqueue, claim, run, finish, fail, cancel, fork and die; clocks change; files reopen."""

    items = Bundle("items")

    @initialize(mode=st.sampled_from(["wal", "truncate"]))
    def open(self, mode: Any) -> None:
        """Begin with an empty journal."""
        self.folder = Path(tempfile.mkdtemp())
        self.mode = mode
        self.database = Database(self.folder, mode)
        self.model: dict[str, ItemRow] = {}
        # What each owner has on its own file: the ids that it is running.
        self.running: dict[str, set[str]] = {owner: set() for owner in OWNERS}
        self.fences: dict[str, int] = {}
        # How often items have ended, and the items' runs that were not their last.
        self.ends = 0
        self.earlier: Counter[str] = Counter()
        self.now = 1_000_000.0

    def teardown(self) -> None:
        """Leave nothing, and look at the file as a whole."""
        if hasattr(self, "database"):
            with self.database.write_lock:
                check = self.database.open().execute("pragma integrity_check").fetchone()
                self.database.close()
            self.database.write_lock.close()
            shutil.rmtree(self.folder)
            assert check == ("ok",)

    def do(self, step: Any, *args: Any, **values: Any) -> Any:
        """One transaction."""
        with self.database.write_lock:
            connection = self.database.begin(full=False)
            answer = step(connection, *args, **values)
            self.database.commit()
            self.database.checkpoint()
        return answer

    def change(self, item_id: str, **values: Any) -> None:
        """Change the model."""
        before = self.model[item_id]
        after = self.model[item_id] = before._replace(**values)
        self.ends += before.status in LIVE and after.status in ENDS

    def mine(self, item_id: str, fence: int) -> bool:
        """Whether a write with this fence counts."""
        row = self.model[item_id]
        return row.status in LIVE and row.owner is not None and row.fence == fence

    @rule(
        target=items,
        number=st.integers(0, 2**64 - 1),
        key=st.sampled_from([None, None, "k"]),
        owner=st.sampled_from([None, *OWNERS]),
        delay=st.sampled_from([0.0, 50.0]),
    )
    def insert(self, number: int, key: str | None, owner: str | None, delay: float) -> str:
        """Enqueue an item; one with a key gives the one in flight that has it."""
        row = ROW._replace(
            id=f"{number:024x}",
            max_crashes=2,
            due=self.now + delay,
            enqueued=self.now,
            key=key,
            owner=owner,
            fence=0 if owner is None else 1,
        )
        if row.id in self.model:
            return row.id
        other = self.do(statements.insert, row)
        live = [each for each in self.model.values() if key and each.key == key and each.status in LIVE]
        assert other == (live[0] if live else None)
        if live:
            return live[0].id
        self.model[row.id] = row
        return row.id

    @rule(owner=st.sampled_from(OWNERS), count=st.integers(1, 3))
    def claim(self, owner: str, count: int) -> None:
        """A process takes the free items that are due, the oldest first."""
        free = sorted(
            (
                row.due
                for row in self.model.values()
                if row.status is Status.QUEUED and row.owner is None and row.due <= self.now
            ),
        )[:count]
        claimed = self.do(statements.claim, owner, {"thread": count, "other": 1}, ["mail"], self.now)
        assert [row.due for row in claimed] == free
        for row in claimed:
            before = self.model[row.id]
            assert before.owner is None
            assert row == before._replace(owner=owner, fence=before.fence + 1)
            self.model[row.id] = row

    @rule(owner=st.sampled_from(OWNERS))
    def fork(self, owner: str) -> None:
        """A fork of this process, with the file open, opens it itself, takes an item, and ends."""
        free = [
            row
            for row in self.model.values()
            if row.status is Status.QUEUED and row.owner is None and row.due <= self.now
        ]
        pid = os.fork()
        if pid == 0:
            try:
                self.database = Database(self.folder, self.mode)
                claimed = self.do(statements.claim, owner, {"thread": 1}, ["mail"], self.now)
                os._exit(0 if len(claimed) == min(1, len(free)) else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        claimed = [row for row in self.do(queries.rows) if row != self.model[row.id]]
        assert [row.due for row in claimed] == sorted(row.due for row in free)[:1]
        for row in claimed:
            assert row == self.model[row.id]._replace(owner=owner, fence=row.fence)
            self.model[row.id] = row

    @rule(item_id=items, late=st.booleans())
    def start(self, item_id: str, late: bool) -> None:
        """Its run begins, if the fence is still the claim's."""
        row = self.model[item_id]
        if row.owner is not None and row.status is Status.QUEUED and not late:
            self.running[row.owner].add(item_id)
        fence = row.fence - late
        done = self.do(statements.start, item_id, fence, self.now)
        assert done is self.mine(item_id, fence)
        if done:
            self.change(
                item_id, status=Status.RUNNING, attempt=row.attempt + 1, started=self.now, progress=None
            )

    @rule(item_id=items, late=st.booleans())
    def report(self, item_id: str, late: bool) -> None:
        """It says how far it is."""
        fence = self.model[item_id].fence - late
        done = self.do(statements.report, item_id, fence, "[1, 2, null]")
        assert done is self.mine(item_id, fence)
        if done:
            self.change(item_id, progress="[1, 2, null]")

    @rule(item_id=items, status=st.sampled_from(ENDS), late=st.booleans())
    def finish(self, item_id: str, status: Status, late: bool) -> None:
        """It ends; a late writer changes nothing."""
        row = self.model[item_id]
        fence = row.fence - late
        done = self.do(statements.finish, item_id, fence, status, self.now, "1", None)
        assert done is self.mine(item_id, fence)
        if done:
            assert row.owner is not None
            self.running[row.owner].discard(item_id)
            self.change(
                item_id, status=status, finished=self.now, result="1", error=None, owner=None, cancel=False
            )

    @rule(item_id=items, charged=st.booleans(), due=st.sampled_from([None, 20.0]), late=st.booleans())
    def release(self, item_id: str, charged: bool, due: float | None, late: bool) -> None:
        """It goes back, for another attempt or because its process stops; or ends, if somebody wants that."""
        row = self.model[item_id]
        fence = row.fence - late
        at = None if due is None else self.now + due
        ended = self.do(statements.release, item_id, fence, self.now, at, charged)
        mine = self.mine(item_id, fence)
        assert (ended is not None) is bool(mine and row.cancel)
        if mine:
            assert row.owner is not None
            self.running[row.owner].discard(item_id)
        if ended is not None:
            self.change(item_id, status=Status.CANCELLED, finished=self.now, owner=None, cancel=False)
            assert ended == self.model[item_id]
        elif mine:
            back = not charged and row.status is Status.RUNNING
            self.earlier[item_id] += back
            self.change(
                item_id,
                status=Status.QUEUED,
                owner=None,
                due=row.due if at is None else at,
                attempt=row.attempt - back,
            )

    @rule(item_id=items)
    def cancel(self, item_id: str) -> None:
        """Somebody cancels it."""
        row = self.model[item_id]
        answer = self.do(statements.request_cancel, item_id, self.now)
        if row.status not in LIVE:
            assert answer is None
        elif row.owner is None:
            assert answer == "cancelled"
            self.change(item_id, status=Status.CANCELLED, finished=self.now)
        else:
            assert answer == "asked"
            self.change(item_id, cancel=True)

    @rule(item_id=items)
    def abandon(self, item_id: str) -> None:
        """Its caller never heard that it had been entered."""
        row = self.model[item_id]
        self.do(statements.abandon, item_id, self.now)
        if row.status is Status.QUEUED:
            if row.owner is not None:
                self.running[row.owner].discard(item_id)
            self.change(item_id, status=Status.CANCELLED, finished=self.now, owner=None)

    @rule(item_id=items)
    def retry(self, item_id: str) -> None:
        """Somebody lets it run again, unless its key is taken by now."""
        row = self.model[item_id]
        taken = row.key and any(
            other.key == row.key and other.status in LIVE for other in self.model.values()
        )
        done = self.do(statements.retry, item_id, self.now)
        assert done is (row.status in (Status.FAILED, Status.CANCELLED) and not taken)
        if done:
            self.earlier[item_id] += row.started is not None
            values: dict[str, Any] = dict.fromkeys(("started", "finished", "progress", "error", "reason"))
            self.change(
                item_id, status=Status.QUEUED, due=self.now, attempt=0, crashes=0, cancel=False, **values
            )

    @rule(owner=st.sampled_from(OWNERS), charged=st.booleans())
    def die(self, owner: str, charged: bool) -> None:
        """A process dies, and another one frees its items."""
        before = dict(self.model)
        released, ended = self.do(statements.recover, owner, self.running[owner], self.now, charged)
        owned = [row for row in before.values() if row.owner == owner]
        assert released + len(ended) == len(owned)
        for row in owned:
            after = self.do(queries.get, row.id)
            crashes = row.crashes + (row.id in self.running[owner] and charged)
            if row.cancel:
                assert after.status is Status.CANCELLED
            elif crashes >= row.max_crashes:
                assert (after.status, after.crashes) == (Status.FAILED, crashes)
                assert f"died in {crashes} of its runs" in after.reason
            else:
                assert (after.status, after.crashes) == (Status.QUEUED, crashes)
                has_run = row.status is Status.RUNNING or (charged and row.id in self.running[owner])
                self.earlier[row.id] += has_run
            assert after.owner is None
            self.change(row.id, **after._asdict())
        self.running[owner].clear()

    @rule(item_id=items)
    def park(self, item_id: str) -> None:
        """It cannot be run."""
        row = self.model[item_id]
        done = self.do(statements.park, item_id, row.fence, "why", self.now)
        assert done is (row.status in LIVE)
        if done:
            if row.owner is not None:
                self.running[row.owner].discard(item_id)
            self.change(item_id, status=Status.FAILED, reason="why", finished=self.now, owner=None)

    @rule(seconds=st.sampled_from([1.0, 60.0, -7_200.0, 7_200.0]))
    def clock(self, seconds: float) -> None:
        """Time passes, or the clock is set."""
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        """The file is closed, and opened by another process."""
        with self.database.write_lock:
            self.database.close()
        self.database.write_lock.close()
        self.database = Database(self.folder, self.mode)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every item is there, as the model has it; fences only rise."""
        if not hasattr(self, "database"):
            return
        found = {row.id: row for row in self.do(queries.rows)}
        assert found == self.model
        for item_id, row in found.items():
            assert row.fence >= self.fences.get(item_id, 0)
            self.fences[item_id] = row.fence
            assert row.attempt >= 0
        counts = self.do(queries.stats)
        assert sum(counts.values()) == len(self.model)

    @invariant()
    def everything_is_counted(self) -> None:
        """The counters of ended items, the tally and the earlier runs are those of the items."""
        if not hasattr(self, "database"):
            return
        found = self.do(task_counts, self.now, self.now - 10.0)
        statuses = Counter(row.status for row in self.model.values())
        assert (found["mail"].items if found else {}) == statuses
        late = [row for row in self.model.values() if row.status is Status.QUEUED and row.owner is None]
        assert sum(task.late for task in found.values()) == sum(row.due < self.now - 10.0 for row in late)
        (ends,) = self.do(lambda db: db.execute("select total(items) from tally").fetchone())
        assert ends == self.ends
        for item_id in self.model:
            assert len(self.do(ended_runs.ended_runs, item_id)) == self.earlier[item_id]


# On a busy machine the many examples take longer than other tests do.
TestJournal = pytest.mark.timeout(600)(Journal.TestCase)
