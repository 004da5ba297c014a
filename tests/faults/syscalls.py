"""Kills a child at each of its system calls on the journal, or lets the calls fail for a while.

The run of a child is recorded once. Then, for every call on the journal's folder, a new child is killed as it
begins that call. What is acknowledged must be in the folder, and when another child has worked there, every
acknowledged item has run, those with an outcome on record not again.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..helpers import ROOT
from . import strace
from .child import Broken, Options, Subject, program
from .record import Mark, marks

#: The calls at which killing makes a difference: those that change something, and those that make it durable.
CHANGES = (
    "mkdir,mkdirat,mknod,mknodat,link,linkat,unlink,unlinkat,rename,renameat,renameat2,write,writev,pwrite64,"
    "pwritev,sendfile,copy_file_range,ftruncate,fallocate,fsync,fdatasync"
)


class Place(NamedTuple):
    """The how manieth call of that name in a thread."""

    name: str
    number: int


class Tried(NamedTuple):
    """A child that was killed, or not."""

    place: Place
    root: Path
    ended: subprocess.CompletedProcess[str]

    @property
    def journal(self) -> Path:
        """The journal's folder."""
        return self.root / "journal"

    @property
    def record(self) -> Path:
        """What the child recorded."""
        return self.root / "record"

    def what(self, kind: str) -> list[str]:
        """What it recorded of that kind."""
        return [mark.what for mark in self.marks() if mark.kind == kind]

    def marks(self) -> Iterator[Mark]:
        """All that it recorded."""
        return marks(self.record.read_bytes() if self.record.exists() else b"")


def places(folder: Path, subject: type[Subject], options: Options) -> dict[Place, str]:
    """Where a child can be killed, in the order of an undisturbed run, and what it had recorded last."""
    tried = attempt(folder, Place("", 0), subject, options, calls=CHANGES)
    assert tried.ended.returncode == 0, tried.ended.stdout
    found: dict[Place, str] = {}
    last = ""
    for moment in strace.read(tried.root / "strace"):
        call = moment.call
        if not moment.done and call.touches(str(tried.journal)):
            found.setdefault(Place(call.name, call.number), last)
        elif moment.done and call.name == "write" and call.files[0][1] == str(tried.record):
            last = " ".join(next(marks(call.strings[0]))[:2])
    return found


def some(places: Iterable[Place], count: int, seed: int = 0) -> list[Place]:
    """At most so many of them, still in order."""
    of, chance = list(places), random.Random(seed)
    return [of[index] for index in sorted(chance.sample(range(len(of)), min(count, len(of))))]


def attempt(
    folder: Path,
    place: Place,
    subject: type[Subject],
    options: Options,
    *faults: str,
    calls: str | None = None,
    seconds: float = 60.0,
) -> Tried:
    """Run a child with these faults, as strace's -e inject= has them, in a new folder."""
    root = folder / f"{place.name}-{place.number}"
    root.mkdir(parents=True)
    child = program(subject, "cycle", root / "journal", root / "record", options)
    traced = calls or ",".join(fault.partition(":")[0] for fault in faults)
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    return Tried(place, root, strace.run(root / "strace", child, *injected, calls=traced, seconds=seconds))


def kill_at(
    folder: Path, at: Iterable[Place], subject: type[Subject], options: Options
) -> tuple[list[Tried], list[str]]:
    """Kill a child at each of the places; returns the children, and what was wrong."""
    tried, wrong = [], []
    for place in at:
        child = attempt(folder, place, subject, options, f"{place.name}:signal=KILL:when={place.number}")
        wrong += [f"{place}: {complaint}" for complaint in missing(child, subject)]
        tried.append(child)
    _recover(tried, subject, options)
    for child in tried:
        wrong += [f"{child.place}, after recovery: {complaint}" for complaint in unfinished(child, subject)]
    return tried, wrong


def missing(child: Tried, subject: type[Subject]) -> list[str]:
    """What is acknowledged but not there, and what was refused but is."""
    try:
        found = subject.look(child.journal)
    except Broken as broken:
        return [str(broken)]
    acknowledged, refused = set(child.what("ack")), set(child.what("nack"))
    complaints = [f"{fact} is lost" for fact in sorted(acknowledged - found)]
    return complaints + [f"{fact} was refused, and is there" for fact in sorted(refused & found)]


def unfinished(child: Tried, subject: type[Subject]) -> list[str]:
    """What is wrong once the items were worked off."""
    complaints = missing(child, subject)
    found = subject.look(child.journal)
    for item in child.what("ack"):
        if "=" not in item and f"{item}=succeeded" not in found:
            complaints.append(f"{item} has no outcome")
    done: set[str] = set()
    begun: Counter[str] = Counter()
    for mark in child.marks():
        if mark.kind == "begin":
            begun[mark.what] += 1
            if mark.what in done:
                complaints.append(f"{mark.what} was done, and ran again")
        elif mark.kind == "done":
            done.add(mark.what)
    for item, count in begun.items():
        if count > 2:
            complaints.append(f"{item} ran {count} times after one kill")
        if item in child.what("nack"):
            complaints.append(f"{item} was refused, and ran")
    return complaints


def _recover(tried: list[Tried], subject: type[Subject], options: Options) -> None:
    """Let another process work off what is left; one process does for all of the folders."""
    folders, records = (":".join(str(path) for path in paths) for paths in zip(
        *((child.journal, child.record) for child in tried), strict=True
    ))  # fmt: skip
    words = program(subject, "work", folders, records, {"subject": options.get("subject", {})})
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + len(tried),
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
