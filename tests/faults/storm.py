"""Kills processes at random while they enqueue and run items, and checks their record afterwards.

A number of processes enqueue and run items in one journal. Again and again one of them, picked by a
seeded generator at a random moment, is killed and started anew, or stopped for a while. In the end the
storm is over, and what is left is worked off. By then

- every acknowledged item has an outcome on record, and has run to its end (or was parked, after as many
  crashes as the journal allows),
- no two runs of an item overlapped,
- every second run of an item followed a kill of the process that ran it, before the outcome was on
  record.
"""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ..helpers import ROOT, until
from .child import Options, Subject, program
from .record import Mark, Record, marks


@dataclass(slots=True)
class _Run:
    """One run of an item."""

    item: str
    who: int
    begun: float
    ended: float | None = None
    #: When the outcome was on record, and when the process was killed, if that came first.
    done: float | None = None
    killed: float | None = None

    @property
    def over(self) -> float:
        """When it was over for certain."""
        ends = [moment for moment in (self.ended, self.killed) if moment is not None]
        return min(ends, default=float("inf"))


@dataclass(slots=True)
class Report:
    """The result of one storm."""

    kills: int = 0
    stops: int = 0
    acknowledged: int = 0
    refused: int = 0
    runs: int = 0
    #: Runs beyond an item's first, and the runs that were in flight at a kill.
    again: int = 0
    in_flight: int = 0
    parked: int = 0
    #: From a kill to the next run of what it interrupted, in seconds.
    delays: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        delays = sorted(self.delays) or [0.0]
        return (
            f"{self.kills} kills, {self.stops} stops; {self.acknowledged} acknowledged,"
            f" {self.refused} refused, {self.parked} parked; {self.runs} runs, {self.again} of them again,"
            f" {self.in_flight} in flight at kills;"
            f" from kill to the next run {1000 * statistics.median(delays):.0f} ms (median),"
            f" {1000 * delays[int(len(delays) * 0.99)]:.0f} ms (99 %), {1000 * delays[-1]:.0f} ms (worst);"
            f" {len(self.wrong)} wrong: {self.wrong[:5]}"
        )


@dataclass(frozen=True, slots=True)
class _Process:
    """One that may be killed, and its number in the record."""

    who: int
    process: subprocess.Popen[bytes]


class Storm:
    """The processes, and their record."""

    def __init__(
        self,
        folder: Path,
        subject: type[Subject],
        options: Options | None = None,
        *,
        processes: int = 4,
        seed: int = 0,
    ) -> None:
        self._journal, self._path = folder / "journal", folder / "record"
        self._output = (folder / "output").open("wb")
        self._record = Record(self._path)
        self._subject, self._options = subject, options or {}
        self._chance = random.Random(seed)
        self._started = 0
        self._processes = [self._start() for _ in range(processes)]
        self._stops = 0
        self._kills = 0

    def _start(self) -> _Process:
        self._started += 1
        options = self._options | {"who": self._started}
        words = program(self._subject, "storm", self._journal, self._path, options)
        command = [sys.executable, *words]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
        )
        return _Process(self._started, process)

    def rage(self, kills: int, seconds: float, *, pause: float = 0.1, stops: float = 0.2) -> None:
        """Kill so many times, or for so long, about a pause apart; one in so many only stops for a while."""
        until(self._all_listen, 30)
        end = time.monotonic() + seconds
        stopped: dict[_Process, float] = {}
        while self._kills < kills and time.monotonic() < end:
            time.sleep(self._chance.expovariate(1 / pause))
            for each in [each for each, due in stopped.items() if due < time.monotonic()]:
                each.process.send_signal(signal.SIGCONT)
                del stopped[each]
            which = self._chance.randrange(len(self._processes))
            victim = self._processes[which]
            if self._chance.random() < stops:
                victim.process.send_signal(signal.SIGSTOP)
                stopped[victim] = time.monotonic() + self._chance.uniform(0.05, 1.0)
                self._stops += 1
                continue
            assert victim.process.poll() is None, f"one ended by itself: {self._said()}"
            self._record.mark("kill", "-", victim.who)
            victim.process.kill()
            victim.process.wait()
            self._kills += 1
            stopped.pop(victim, None)
            self._processes[which] = self._start()
        for each in stopped:
            each.process.send_signal(signal.SIGCONT)

    def calm(self, patience: float = 60.0) -> None:
        """No new items; wait until all is worked off, but no longer than patience, and end."""
        until(self._all_listen, 30)
        for each in self._processes:
            each.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + patience
        while self._unfinished() and time.monotonic() < end:
            time.sleep(0.05)
        for each in self._processes:
            each.process.terminate()
        for each in self._processes:
            assert each.process.wait(30) == 0, self._said()

    def _all_listen(self) -> bool:
        ready = {mark.who for mark in self._marks() if mark.kind == "ready"}
        return all(each.who in ready for each in self._processes)

    def end(self) -> None:
        """End the process, and close its files."""
        for each in self._processes:
            each.process.kill()
            each.process.wait()
        self._record.close()
        self._output.close()

    def report(self) -> Report:
        """Check the record, and the journal that is left."""
        return check(self._marks(), self._subject.look(self._journal), self._stops)

    def _marks(self) -> list[Mark]:
        return list(marks(self._path.read_bytes()))

    def _unfinished(self) -> set[str]:
        recorded = self._marks()
        accepted = {mark.what for mark in recorded if mark.kind == "ack"}
        left = accepted - {mark.what for mark in recorded if mark.kind == "done"}
        if left:
            found = self._subject.look(self._journal)
            left = {item for item in left if not found & {f"{item}=succeeded", f"{item}=failed"}}
        return left

    def _said(self) -> str:
        self._output.flush()
        return Path(self._output.name).read_text()[-3000:]


def check(recorded: list[Mark], found: set[str], stops: int = 0) -> Report:
    """The result by the record; ``found`` are the facts in the journal at the end."""
    kills = {mark.who: mark.at for mark in recorded if mark.kind == "kill"}
    acknowledged = {mark.what for mark in recorded if mark.kind == "ack"}
    refused = {mark.what for mark in recorded if mark.kind == "nack"}
    report = Report(len(kills), stops, len(acknowledged), len(refused))
    runs = _runs(recorded, kills)
    for item in sorted(acknowledged):
        if f"{item}=failed" in found:
            report.parked += 1
        elif f"{item}=succeeded" not in found:
            report.wrong.append(f"{item} was acknowledged, and has no outcome")
        elif not any(run.ended for run in runs[item]):
            report.wrong.append(f"{item} was acknowledged, and never ran to its end")
    for item, its in runs.items():
        report.runs += len(its)
        report.again += len(its) - 1
        report.in_flight += sum(run.killed is not None and run.done is None for run in its)
        if item in refused:
            report.wrong.append(f"{item} was refused, and ran")
        for run, following in pairwise(its):
            if following.begun < run.over:
                report.wrong.append(f"{item} ran twice at once: {run} and {following}")
            elif run.done is not None:
                report.wrong.append(f"{item} ran again though it was done: {run} and {following}")
            elif run.killed is None:
                report.wrong.append(f"{item} ran again though nothing was killed: {run} and {following}")
            else:
                report.delays.append(following.begun - run.killed)
    return report


def _runs(recorded: list[Mark], kills: dict[int, float]) -> dict[str, list[_Run]]:
    """The runs of each item, in the order in which they began."""
    runs: defaultdict[str, list[_Run]] = defaultdict(list)
    for mark in sorted(recorded, key=lambda mark: mark.at):
        if mark.kind == "begin":
            run = _Run(mark.what, mark.who, mark.at, killed=kills.get(mark.who))
            runs[mark.what].append(run)
        elif mark.kind in ("end", "done"):
            for run in reversed(runs[mark.what]):
                if run.who == mark.who:
                    if mark.kind == "end":
                        run.ended = mark.at
                    else:
                        run.done = mark.at
                    break
    return runs
