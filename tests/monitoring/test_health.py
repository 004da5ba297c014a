"""The doctor's look at items and processes: what is stuck, late, piling up or paused."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background.app_state import state_of
from flask_background.core.finding import Finding
from flask_background.core.status import Status
from flask_background.durable.journal import statements
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.durable.journal.tally import TallyRow, add
from flask_background.monitoring import health

from ..durable.rows import ROW
from ..durable.shop import Shop
from ..helpers import BOUND, Script, Site, stands_still, until

pytestmark = pytest.mark.process


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal, whose items wait for other processes."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)
    site.background.task(durable=True, name="mail")(lambda: None).enqueue()
    return site


def enter(site: Site, count: int, **values: Any) -> None:
    """Enter items as a process would have, some time ago."""
    now = time.time()
    rows = [ROW._replace(id=f"{number:024x}", due=now, enqueued=now, **values) for number in range(count)]
    write(site, lambda db: statements.insert_all(db, rows))


def write(site: Site, step: Callable[[Any], object]) -> None:
    """Change the journal behind the app's back."""
    state_of(site.app).durable.session.writer.write(step)


def findings(site: Site) -> dict[str, Finding]:
    """The findings, by subject."""
    with site.app.app_context():
        return {finding.subject: finding for finding in health.examine(state_of(site.app))}


def levels(site: Site) -> set[str]:
    """The levels of all findings."""
    return {finding.level for finding in findings(site).values()}


def test_all_is_well(site: Site, make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A new item is no cause for alarm, and an app that has not run has no findings at all."""
    assert levels(site) == {"ok"}
    assert findings(site)["items"].text == "none is late or stuck, and none piles up"
    assert findings(make_site(BACKGROUND_JOURNAL=tmp_path / "other")) == {}
    assert not (tmp_path / "other").exists()


def test_late_and_nobody_is_up(site: Site) -> None:
    """Items that have long been due, while no process is up that could run them."""
    write(site, lambda db: db.execute("update item set due = ?", (time.time() - 300,)))
    finding = findings(site)["task mail"]
    assert finding.level == "error"
    assert "late: 1 item (executor thread), the oldest for 5 min, and no process is up" in finding.text


def test_late_though_processes_are_up(shop: Shop, make_site: Callable[..., Site]) -> None:
    """Items that wait in the journal, or behind a long run in the process that has claimed them."""
    script = shop.start("items = [work.enqueue('hold') for _ in range(6)]", "\n    serve()")
    until(lambda: len(shop.runs()) == 2)
    until(lambda: [row["status"] for row in shop.rows()].count("running") == 2)
    site = make_site(BACKGROUND_JOURNAL=shop.folder / "journal", BACKGROUND_RUN_IN_WEB=False)
    site.background.task(durable=True, name="work")(print)
    write(site, lambda db: db.execute("update item set due = ? where status = 'queued'", (time.time() - 90,)))
    finding = findings(site)["task work"]
    assert finding.level == "warning"
    assert "late: 4 items (executor thread), the oldest for " in finding.text
    site.background.monitor.pause("task", "work", by="ada")
    finding = findings(site)["task work"]
    assert finding.level == "ok"
    assert finding.text.endswith("UTC by ada: 4 items wait")
    assert finding.cure is not None
    assert "flask background resume work" in finding.cure
    site.background.monitor.pause("executor", "thread")
    assert findings(site)["executor thread"].text.endswith("UTC: 4 items wait")
    site.background.monitor.resume("task", "work")
    site.background.monitor.resume("executor", "thread")
    shop.touch("go")
    shop.touch("stop")
    assert script.ends() == 0


def test_piling_up(site: Site) -> None:
    """More items come than end, and those that wait would take long."""
    enter(site, 200)
    finding = findings(site)["task mail"]
    assert finding.level == "warning"
    assert "piling up: 201 items wait, and 0 ended in the last 10 min" in finding.text
    minute = int(time.time() // 60)
    write(site, lambda db: add(db, [TallyRow(minute, "mail", "succeeded", 1, 1, 500, 1.0, 1.0)]))
    assert levels(site) == {"ok"}


@pytest.mark.parametrize(
    ("timeout", "known", "ran", "level"),
    [
        (None, 0, 9_000, None),
        (None, 50, 59, None),
        (None, 50, 70, "warning"),
        (30, 0, 80, None),
        (30, 0, 100, "warning"),
        ("odd", 50, 70, "warning"),
    ],
)
def test_stuck(site: Site, timeout: Any, known: int, ran: float, level: str | None) -> None:
    """A run takes far longer than its timeout, or than other runs of its task."""
    started = time.time() - ran
    enter(site, 1, status=Status.RUNNING, owner="77-a", fence=1, options=json.dumps({"timeout": timeout}))
    write(site, lambda db: db.execute("update item set started = ? where owner = '77-a'", (started,)))
    minute = int(time.time() // 60)
    write(site, lambda db: add(db, [TallyRow(minute, "mail", "succeeded", 1, 5, known, 1.0, 1.0)]))
    finding = findings(site).get(f"item {'0' * 24}")
    assert (None if finding is None else finding.level) == level
    assert finding is None or "(mail, in process 77)" in finding.text


@pytest.fixture
def shop(tmp_path: Path, script: Callable[..., Script]) -> Shop:
    """No journal yet, and no process."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return Shop(folder, script)


def test_process_that_does_not_answer(
    shop: Shop, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stands still is named, with how to look at it."""
    monkeypatch.setattr(health, "_PATIENCE", 0.5)
    script = shop.start("serve()")
    script.wait_for("serves")
    site = make_site(BACKGROUND_JOURNAL=shop.folder / "journal", BACKGROUND_RUN_IN_WEB=False)
    site.background.task(durable=True, name="work")(print)
    pid = script.process.pid
    assert f"process {pid}" not in findings(site)
    script.send(signal.SIGSTOP)
    until(lambda: stands_still(pid))
    time.sleep(0.6)
    finding = findings(site)[f"process {pid}"]
    assert finding.level == "error"
    assert "does not answer (it did so" in finding.text
    script.send(signal.SIGCONT)
    until(lambda: f"process {pid}" not in findings(site))
    shop.touch("stop")
    assert script.ends() == 0


def test_outbox(site: Site) -> None:
    """Items that have long waited to be forwarded."""
    box = state_of(site.app).durable.outbox
    box.put(OutboxRow("item-0", "mail", "[[],{}]", "{}", None, None, time.time() - 600))
    finding = findings(site)["outbox"]
    assert finding.level == "warning"
    assert "1 item waits to be forwarded" in finding.text


def test_items_in_memory(site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that have long waited in the memory of a process."""
    items = [
        site.background.enqueue(gate.wait, BOUND)
        for _ in range(site.backend.executors["thread"].capacity + 1)
    ]
    monkeypatch.setattr(health, "LATE", -1.0)
    until(lambda: site.background.stats().queued == 1)
    assert any("late: 1 item waits in its memory" in finding.text for finding in findings(site).values())
    gate.set()
    assert all(item.wait(BOUND) for item in items)


def test_damaged_journal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be asked is a finding, and no traceback."""
    monkeypatch.setattr(
        "flask_background.durable.journal.health.waiting", lambda db, **_: db.execute("select odd")
    )
    assert "error" in levels(site)
