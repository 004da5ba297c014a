"""The journal after a child was disturbed, and after another child has worked there."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..helpers import ROOT
from .child import Broken, Options, Subject, program
from .record import Mark, marks


class Left(NamedTuple):
    """The folder of a child that was disturbed, and how."""

    how: str
    root: Path
    code: int = 0
    said: str = ""

    @property
    def journal(self) -> Path:
        """The journal's folder."""
        return self.root / "journal"

    @property
    def record(self) -> Path:
        """The lines that the child recorded."""
        return self.root / "record"

    def what(self, kind: str) -> list[str]:
        """The lines of one kind that the child recorded."""
        return [mark.what for mark in self.marks() if mark.kind == kind]

    def marks(self) -> Iterator[Mark]:
        """All that it recorded."""
        return marks(self.record.read_bytes() if self.record.exists() else b"")


def missing(child: Left, subject: type[Subject]) -> list[str]:
    """The items that were acknowledged but are missing, and those that were refused but are there."""
    try:
        found = subject.look(child.journal)
    except Broken as broken:
        return [str(broken)]
    acknowledged, refused = set(child.what("ack")), set(child.what("nack"))
    complaints = [f"{fact} is lost" for fact in sorted(acknowledged - found)]
    return complaints + [f"{fact} was refused, and is there" for fact in sorted(refused & found)]


def unfinished(child: Left, subject: type[Subject]) -> list[str]:
    """The faults that are found when all items have been run."""
    complaints = missing(child, subject)
    try:
        found = subject.look(child.journal)
    except Broken:
        return complaints
    for item in child.what("ack"):
        if ":" not in item and f"{item}=succeeded" not in found:
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


def work_off(tried: list[Left], subject: type[Subject], options: Options) -> None:
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
        timeout=60 + 6 * len(tried),
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
