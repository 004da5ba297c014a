"""How samples are taken, and made into a row of a table."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

from .table import Goal, Row

OURS = "Flask-Background"


class Named(Protocol):
    """Who can be in a row."""

    name: str


P = TypeVar("P", bound=Named)


def row(
    title: str,
    samples: dict[str, list[float]],
    goals: Mapping[str, Goal] = MappingProxyType({}),
    limit: Goal | None = None,
) -> Row:
    """Ours beside all others."""
    return Row(title, samples.pop(OURS), samples, goals, limit)


def interleaved(everyone: Sequence[P], rounds: int, sample: Callable[[P], float]) -> dict[str, list[float]]:
    """Sample all peers in turn, round by round, so that noise meets all alike; the first round warms up."""
    samples: dict[str, list[float]] = {peer.name: [] for peer in everyone}
    for number in range(rounds + 1):
        for peer in everyone:
            gc.collect()
            value = sample(peer)
            if number:
                samples[peer.name].append(value)
    return samples
