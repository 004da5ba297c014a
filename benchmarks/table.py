"""One table of all measures: ours beside each peer, the ratio, and whether that is what we promise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Protocol

HEADINGS = ("measure", "ours", "peer", "the peer's", "ratio", "goal", "met")


@dataclass(frozen=True)
class Goal:
    """A bound for a ratio, or for our own figure."""

    bound: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether value keeps to it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:.3g}"


@dataclass(frozen=True)
class Row:
    """One measure: our samples and every peer's, one for each round; and the goals, for ratios by peer."""

    measure: str
    ours: Sequence[float]
    peers: Mapping[str, Sequence[float]]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    limit: Goal | None = None

    def lines(self) -> Iterator[tuple[str, ...]]:
        """The first with our own figure, and one for each peer."""
        yield (self.measure, _summary(self.ours), "", "", "", *_verdict(self.limit, median(self.ours)))
        for peer, theirs in self.peers.items():
            # Of samples taken one after the other, so that what slows the machine for a while cancels out.
            ratio = median(our / their for our, their in zip(self.ours, theirs, strict=True))
            yield "", "", peer, _summary(theirs), f"{ratio:.2f}", *_verdict(self.goals.get(peer), ratio)


class HasLines(Protocol):
    """What makes one line of a table, or several."""

    def lines(self) -> Iterator[tuple[str, ...]]:
        """The cells of each."""
        ...


def render(rows: Iterable[HasLines], headings: tuple[str, ...] = HEADINGS) -> str:
    """The whole table."""
    lines = [headings, *(line for row in rows for line in row.lines())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _verdict(goal: Goal | None, value: float) -> tuple[str, str]:
    return ("", "") if goal is None else (str(goal), "yes" if goal.is_met(value) else "NO")


def _summary(samples: Sequence[float]) -> str:
    """The median, and how far the middle half of the samples spreads around it."""
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return f"{short(middle)} ±{(high - low) / 2 / middle:.0%}"


def short(value: float) -> str:
    """A figure as it is printed."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
