"""The journal, when the power fails, its processes are killed, and its disk is full or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .aftermath import unfinished
from .conftest import TIMEOUT, Size, StartStorm, Tell
from .power import cut
from .product import Journal, Migrated
from .syscalls import Place, attempt, kill_at, places, some

# The second one copies its WAL back all the time; the third is for file systems that cannot do WAL.
KINDS: list[dict[str, Any]] = [{"uploads": True}, {"long": 2}, {"mode": "truncate"}]


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut(tmp_path: Path, size: Size, tell: Tell, kind: dict[str, Any]) -> None:
    """At level "power" everything acknowledged is there, wherever the power is cut."""
    options = {"subject": kind, "mode": {"items": size.items, "producers": 3}}
    outcome = cut(tmp_path, Journal, options, mixes=size.mixes, recover=size.places)
    tell(outcome)
    assert {f"i{index}" for index in range(size.items)} <= outcome.acknowledged
    assert not outcome.losses, outcome
    assert not outcome.wrong, outcome


def test_a_power_cut_at_level_process(tmp_path: Path) -> None:
    """Then a power cut takes what is not synced, but the end of the process takes nothing."""
    outcome = cut(tmp_path, Journal, {"subject": {"level": "process"}})
    assert outcome.losses
    assert not outcome.killed, outcome


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", [KINDS[1], KINDS[2]])
def test_a_kill_at_each_call(tmp_path: Path, size: Size, tell: Tell, kind: dict[str, Any]) -> None:
    """An acknowledged item is there, runs, and does not run again after its end."""
    options = {"subject": kind, "mode": {"items": 2}}
    where = some(places(tmp_path, Journal, options), size.places)
    tried, wrong = kill_at(tmp_path, where, Journal, options)
    tell(f"{len(tried)} places")
    assert not wrong
    # With several threads the calls are not always in the same order, so one or the other is not reached.
    assert sum(child.code == -9 for child in tried) > len(tried) / 2


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", [KINDS[1], KINDS[2]])
def test_a_kill_in_a_migration(tmp_path: Path, size: Size, tell: Tell, kind: dict[str, Any]) -> None:
    """Wherever a migration is killed, the next process finishes it, and every item from before it runs."""
    options = {"subject": kind, "mode": {"items": 1}}
    before = [place for place, last in places(tmp_path, Migrated, options).items() if not last]
    tried, wrong = kill_at(tmp_path, some(before, size.places), Migrated, options)
    tell(f"{len(tried)} places of {len(before)}")
    assert not wrong
    assert sum(child.code == -9 for child in tried) > len(tried) / 2


@pytest.mark.timeout(TIMEOUT)
def test_a_power_cut_in_a_migration(tmp_path: Path, size: Size, tell: Tell) -> None:
    """Wherever the power is cut, what was acknowledged is there, and what was there before the migration."""
    outcome = cut(tmp_path, Migrated, {"mode": {"items": 1}}, mixes=size.mixes, recover=size.places)
    tell(outcome)
    assert set(Migrated.OLD) <= outcome.acknowledged
    assert not outcome.losses, outcome
    assert not outcome.wrong, outcome


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize(("error", "apart"), [("ENOSPC", True), ("EIO", False)])
def test_a_failing_disk(
    tmp_path: Path, size: Size, kind: dict[str, Any], call: str, error: str, apart: bool
) -> None:
    """Refusals come soon and leave no item; accepted items run, however long the disk fails."""
    options = {"subject": kind, "mode": {"items": 4, "apart": apart}}
    where = places(tmp_path, Journal, options)
    begins = [
        place.number
        for place, last in where.items()
        if place.name == call and last.startswith(("took", "done"))
    ]
    few = 4 if call == "fdatasync" else 1  # with a rollback journal so many are one commit
    for first in begins[: max(few, size.places // 100)]:
        for times in (1, 20):
            fault = f"{call}:error={error}:when={first}..{first + times - 1}"
            child = attempt(tmp_path / str(times), Place(call, first), Journal, options, fault)
            assert child.code == 0, child.said
            assert not unfinished(child, Journal), fault
            assert max(float(seconds) for seconds in child.what("took")) < 5


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", [{"level": "process", "long": 20}])
def test_a_storm(storm: StartStorm, size: Size, tell: Tell, kind: dict[str, Any]) -> None:
    """Four processes, killed and stopped at random: nothing is lost, and nothing runs twice at once."""
    made = storm(Journal, {"subject": kind, "mode": {"every": 0.03}, "takes": 0.02})
    made.rage(size.kills, size.seconds, pause=0.15)
    made.calm()
    report = made.report()
    tell(report)
    assert not report.wrong, report
    assert report.kills
    assert report.again <= report.in_flight
