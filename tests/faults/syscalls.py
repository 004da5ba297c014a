"""Kills a child at each of its system calls on the journal, or lets the calls fail for a while.

The run of a child is recorded once. Then, for every call on the journal's folder, a new child is killed as it
begins that call. What is acknowledged must be in the folder, and when another child has worked there, every
acknowledged item has run, those with an outcome on record not again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import strace
from .aftermath import Left, missing, unfinished, work_off
from .child import Options, Subject, program
from .record import marks

#: The calls at which killing makes a difference: those that change something, and those that make it durable.
CHANGES = (
    "mkdir,mkdirat,mknod,mknodat,link,linkat,unlink,unlinkat,rename,renameat,renameat2,write,writev,pwrite64,"
    "pwritev,sendfile,copy_file_range,ftruncate,fallocate,fsync,fdatasync"
)


class Place(NamedTuple):
    """The how manieth call of that name in a thread."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


def places(folder: Path, subject: type[Subject], options: Options) -> dict[Place, str]:
    """The calls at which a child can be killed, in the order of an undisturbed run, with its last records."""
    tried = attempt(folder, Place("", 0), subject, options, calls=CHANGES)
    assert tried.code == 0, tried.said
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
) -> Left:
    """Run a child with these faults, as strace's -e inject= has them, in a new folder."""
    root = folder / f"{place.name}-{place.number}"
    root.mkdir(parents=True)
    child = program(subject, "cycle", root / "journal", root / "record", options)
    traced = calls or ",".join(fault.partition(":")[0] for fault in faults)
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    ended = strace.run(root / "strace", child, *injected, calls=traced, seconds=seconds)
    return Left(str(place), root, ended.returncode, ended.stdout)


def kill_at(
    folder: Path, at: Iterable[Place], subject: type[Subject], options: Options
) -> tuple[list[Left], list[str]]:
    """Kill a child at each of the places; returns the children, and what was wrong."""
    tried, wrong = [], []
    for place in at:
        child = attempt(folder, place, subject, options, f"{place.name}:signal=KILL:when={place.number}")
        wrong += [f"{place}: {complaint}" for complaint in missing(child, subject)]
        tried.append(child)
    work_off(tried, subject, options)
    for child in tried:
        wrong += [f"{child.how}, after recovery: {complaint}" for complaint in unfinished(child, subject)]
    return tried, wrong
