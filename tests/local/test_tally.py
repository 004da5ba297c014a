"""The tally of the memory: every ended item is counted once, whether pages turn or somebody looks."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from flask_background import Background
from flask_background.core.buckets import NO_RUN
from flask_background.local import ended, tally
from flask_background.local.tally import MemoryTally

from ..helpers import BOUND, Site, fill, until


def _ok() -> None:
    pass


def _fail() -> None:
    raise ValueError


def counted(found: dict[Any, Any]) -> Counter[tuple[str, str]]:
    """How many items were counted, by the end of the task's name and the status."""
    counts: Counter[tuple[str, str]] = Counter()
    for (_, task, status, _, _), (count, _, _) in found.items():
        counts[task.rpartition(".")[2], status] += count
    return counts


@pytest.mark.parametrize("looks", [True, False])
def test_each_item_is_counted_once(site: Site, monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    """Items are counted once, on whichever page they are, by a look or by the turn of a page."""
    monkeypatch.setattr("flask_background.local.ledger.KEPT", 7)
    memory = site.backend.ledger.tally()
    found: Counter[tuple[str, str]] = Counter()
    for number in range(60):
        site.background.enqueue(_fail if number % 5 == 0 else _ok).wait(BOUND)
        if looks and number % 4 == 0:
            found += counted(site.backend.ledger.tally().take())
    assert site.background.wait_idle(BOUND)
    found += counted(site.backend.ledger.tally().take())
    assert site.backend.ledger.tally() is memory
    assert found == {("_ok", "succeeded"): 48, ("_fail", "failed"): 12}
    assert memory.take() == {}


def test_items_before_the_first_look(site: Site) -> None:
    """The items that are still kept when the tally begins are counted, too."""
    for _ in range(3):
        site.background.enqueue(_ok).wait(BOUND)
    assert site.background.wait_idle(BOUND)
    assert counted(site.backend.ledger.tally().take()) == {("_ok", "succeeded"): 3}


def test_nothing_is_counted_if_nobody_asks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal, and if nobody looks, a page that turns costs nothing."""
    monkeypatch.setattr("flask_background.local.ledger.KEPT", 3)
    monkeypatch.setattr(tally, "_measure", lambda item: pytest.fail("an item was measured"))
    for _ in range(10):
        site.background.enqueue(_ok).wait(BOUND)


@pytest.mark.parametrize("many", [20, 1_000])
def test_sample(site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    """Of many items some are measured; the counts of tasks and statuses are exact all the same."""
    monkeypatch.setattr(tally, "_MANY", many)
    monkeypatch.setattr(tally, "_SAMPLE", 7)
    measured = []
    measure = tally._measure
    monkeypatch.setattr(tally, "_measure", lambda item: measured.append(item) or measure(item))
    site.backend.ledger.tally()
    fill(site, gate, 1)
    rare = site.background.task(name="app.rare")(_ok)
    items = [site.background.enqueue(_fail if n % 20 == 0 else _ok) for n in range(100)]
    items.append(rare.enqueue())
    gate.set()
    assert all(item.wait(BOUND) for item in items)
    assert site.background.wait_idle(BOUND)
    found = counted(site.backend.ledger.tally().take())
    del found["wait", "succeeded"]
    assert found == {("_ok", "succeeded"): 95, ("_fail", "failed"): 5, ("rare", "succeeded"): 1}
    assert (len(measured) < 50) is (many == 20)


def test_measures(background: Background, site: Site, gate: threading.Event) -> None:
    """A delay is no wait, nor is the pause before another run; a cancelled item has no run."""
    runs = []

    @background.task(name="again", max_attempts=2, backoff=0.3)
    def again() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError

    later = background.task(name="later")(_ok).using(delay=0.3).enqueue()
    cancelled = background.task(name="cancelled")(_ok).using(delay=60).enqueue()
    assert cancelled.cancel()
    item = again.enqueue()
    assert later.wait(BOUND)
    assert item.wait(BOUND)
    assert background.wait_idle(BOUND)
    found = {key[1]: (key, totals) for key, totals in site.backend.ledger.tally().take().items()}
    assert found["later"][1][1] < 0.25
    assert found["again"][1][1] < 0.25
    assert found["cancelled"][0][4] == NO_RUN
    assert found["cancelled"][1] == (1, 0.0, 0.0)


def test_old_counts_are_forgotten() -> None:
    """Counts that nobody takes do not pile up."""
    memory = MemoryTally()
    memory.add({(10, "old", "failed", 0, 0): (1, 0.0, 0.0), (5_000, "new", "failed", 0, 0): (1, 0.0, 0.0)})
    assert [key[1] for key in memory.look(5_000 * 60.0)] == ["new"]
    assert [key[1] for key in memory.take()] == ["new"]


def test_threads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that end while somebody looks are counted once."""
    monkeypatch.setattr(ended, "KEPT", 50)
    monkeypatch.setattr("flask_background.local.ledger.KEPT", 50)
    site.backend.ledger.tally()
    found: Counter[tuple[str, str]] = Counter()
    items = [site.background.enqueue(_ok) for _ in range(1_000)]
    while not all(item.status.is_final for item in items):
        found += counted(site.backend.ledger.tally().take())
    assert site.background.wait_idle(BOUND)
    found += counted(site.backend.ledger.tally().take())
    assert until(lambda: found) == {("_ok", "succeeded"): 1_000}
