"""Samples of processes: how much memory, how many threads and how many descriptors each has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Sample(NamedTuple):
    """What one process had at one moment. ``memory`` is in MiB."""

    memory: float
    threads: int
    descriptors: int


class Growth(NamedTuple):
    """What a process had early and late in the soak: medians of a quarter of the samples."""

    name: str
    early: Sample
    late: Sample

    @property
    def is_flat(self) -> bool:
        """Whether nothing has grown by more than a tenth, or by a little."""
        return all(
            late <= max(early * 1.1, early + slack)
            for early, late, slack in zip(self.early, self.late, Sample(8.0, 3, 5), strict=True)
        )


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and they in turn."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # the thread has ended
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def sample(pid: int) -> Sample | None:
    """A sample; None if the process has ended."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return Sample(
            int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))
        )
    except (OSError, KeyError):
        return None


def growth(name: str, samples: list[Sample]) -> Growth:
    """Compare the second quarter of the samples with the last: in the first one the process warms up."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return Growth(name, *(Sample(*map(median, zip(*some, strict=True))) for some in (early, late)))
