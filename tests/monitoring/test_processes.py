"""The processes of an app: who they are, and the loads that they tell when they are asked."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.durable.journal import takeover
from flask_background.monitoring.snapshots import ProcessSnapshot

from ..durable.shop import Shop
from ..helpers import BOUND, Script, Site, stands_still, until

pytestmark = pytest.mark.process

# Another process with a journal, whose memory holds two items: one runs, one waits.
BUSY = """
    @background.task(name="memory")
    def memory():
        await_file("go")

    app.config["X"] = [memory.enqueue() for _ in range(3)]
    serve()
"""


@pytest.fixture
def shop(tmp_path: Path, script: Callable[..., Script]) -> Shop:
    """No journal yet, and no process."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return Shop(folder, script)


@pytest.fixture
def site(make_site: Callable[..., Site], shop: Shop) -> Site:
    """The shop's app in this process, which leaves durable items to other processes."""
    return make_site(BACKGROUND_JOURNAL=shop.folder / "journal", BACKGROUND_RUN_IN_WEB=False)


def others(site: Site, wait: float = BOUND) -> list[ProcessSnapshot]:
    """The other processes; this one comes first."""
    this, *found = site.background.monitor.processes(wait)
    assert this.is_this
    assert not any(process.is_this for process in found)
    return found


def left(shop: Shop, site: Site) -> list[str]:
    """The load files of other processes."""
    this = state_of(site.app).durable.session.process_lock.id
    return [name for name in os.listdir(shop.folder / "journal" / "loads") if name not in ("asked", this)]


def test_other_process(shop: Shop, site: Site) -> None:
    """A process says what it is, and what its memory holds; the items in the journal are not among that."""
    script = shop.start(BUSY)
    script.wait_for("serves")
    (process,) = others(site)
    assert process.pid == script.process.pid
    assert process.host == os.uname().nodename
    assert process.role == "process"
    assert process.phase == "running"
    assert abs(process.since.timestamp() - time.time()) < BOUND
    assert process.runs == ("asyncio", "thread")
    assert (process.queued, process.running) == (1, 2)
    assert process.tasks == {"memory": (1, 2)}
    assert process.oldest is not None
    assert process.oldest < BOUND
    assert [
        (each.name, each.kind, each.workers, each.queued, each.running) for each in process.executors
    ] == [
        ("thread", "thread", 2, 1, 2),
        ("asyncio", "asyncio", 5_000, 0, 0),
    ]
    first_answer = process.answered_at
    (process,) = others(site)
    assert process.answered_at is not None
    assert first_answer is not None
    assert process.answered_at > first_answer
    shop.touch("go")
    until(lambda: others(site)[0].running == 0)
    shop.touch("stop")
    assert script.ends() == 0
    assert others(site) == []
    assert left(shop, site) == []


def test_process_that_does_not_answer(shop: Shop, site: Site) -> None:
    """A process that stands still is listed with its last answer; a dead one is not, and its files go."""
    script = shop.start(BUSY)
    script.wait_for("serves")
    (before,) = others(site)
    script.send(signal.SIGSTOP)
    until(lambda: stands_still(script.process.pid))
    began = time.monotonic()
    (process,) = others(site, 0.2)
    assert 0.2 <= time.monotonic() - began < BOUND
    assert process.answered_at == before.answered_at
    assert process.running == 2
    script.send(signal.SIGCONT)
    (process,) = others(site)
    assert process.answered_at is not None
    assert process.answered_at > datetime.fromtimestamp(time.time() - BOUND, UTC)
    script.kill()
    until(lambda: others(site) == [])
    until(lambda: left(shop, site) == [])


def test_nothing_is_written_while_nobody_asks(shop: Shop, site: Site) -> None:
    """A process writes its load once for each request, and not at all before the first."""
    script = shop.start("serve()")
    script.wait_for("serves")
    state_of(site.app).durable.session.wake_all()
    loads = shop.folder / "journal" / "loads"
    assert not loads.exists()
    (process,) = others(site)
    written = (loads / process.id).stat().st_mtime_ns
    for _ in range(3):
        state_of(site.app).durable.session.wake_all()
        time.sleep(0.1)
    assert (loads / process.id).stat().st_mtime_ns == written
    others(site)
    assert (loads / process.id).stat().st_mtime_ns > written
    shop.touch("stop")
    assert script.ends() == 0


def test_file_of_an_earlier_version(shop: Shop, site: Site) -> None:
    """A process of another version, whose file has no such line, is listed by its pid."""
    script = shop.start(
        """
        import json
        from flask_background.durable.journal.process_lock import ProcessLock
        make = ProcessLock._make_file

        def make_old(self):
            self._header = json.dumps([["work"], ["thread"]]).encode() + b"\\n"
            return make(self)

        ProcessLock._make_file = make_old
        serve()
        """
    )
    script.wait_for("serves")
    (process,) = others(site)
    assert (process.pid, process.role, process.host) == (script.process.pid, "process", "")
    folder = shop.folder / "journal" / "owners"
    assert takeover.knows(folder, process.id, "work", "thread")
    shop.touch("stop")
    assert script.ends() == 0


def test_earlier_version_reads_our_file(site: Site) -> None:
    """The first line of the file is as it always was, and the second is no run to an earlier version."""
    site.background.task(durable=True, name="work")(lambda: None)
    lock = state_of(site.app).durable.session.process_lock
    tasks, executors = json.loads(lock._header.splitlines()[0])
    assert tasks == ["work"]
    assert executors == ["asyncio", "thread"]
    assert lock._header.splitlines()[1][:1] not in (b"+", b"-", b"!")


@pytest.mark.parametrize("has_journal", [False, True])
def test_this_process(
    make_site: Callable[..., Site], tmp_path: Path, gate: threading.Event, has_journal: bool
) -> None:
    """The load of the process that asks is that of this moment, without a journal too."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_JOURNAL=tmp_path / "journal")
    if has_journal:
        site.background.task(durable=True, name="work")(lambda: None).enqueue().result(BOUND)
    task = site.background.task(name="memory")(gate.wait)
    items: list[Any] = [task.enqueue(BOUND) for _ in range(2)]
    items.append(task.using(delay=600).enqueue())
    until(lambda: items[0].status is Status.RUNNING)
    (process,) = site.background.monitor.processes()
    assert process.is_this
    assert process.pid == os.getpid()
    assert (process.queued, process.running, process.tasks) == (2, 1, {"memory": (2, 1)})
    assert process.oldest is not None
    assert process.executors[0].queued == 2
    items[1].cancel()
    (process,) = site.background.monitor.processes()
    assert process.oldest is None  # the item with a delay is not late
    items[2].cancel()
    assert has_journal is (process.runs != ())
