"""What the values that a Monitor returns say of themselves."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil

import pytest

from flask_background.monitoring.snapshots import BUCKETS, Distribution

pytestmark = pytest.mark.unit

SHARES = (0.0, 0.1, 0.5, 0.95, 1.0)


def counted(times: Sequence[float]) -> Distribution:
    """Times as they are counted."""
    counts = [0] * (len(BUCKETS) + 1)
    for time in times:
        counts[bisect_left(BUCKETS, time)] += 1
    return Distribution(counts=tuple(counts), seconds=sum(times))


@pytest.mark.parametrize("time", [0.0004, 4.0, 60.0007, 5000.0])
def test_quantiles_of_a_single_time(time: float) -> None:
    """The quantiles of a single time are that time, not somewhere in its bucket."""
    found = counted([time])
    assert [found.quantile(share) for share in SHARES] == [pytest.approx(time)] * len(SHARES)


@pytest.mark.parametrize(
    "times",
    [
        [0.001, 0.002, 0.003, 0.3, 0.4, 2.0, 2.1, 50.0],
        [0.001 * 1.7**number for number in range(25)],
        [*[0.0001] * 95, 7000.0],
    ],
)
def test_quantiles_are_in_the_right_bucket(times: list[float]) -> None:
    """A quantile rises with its share, and lies in the bucket of the time that it stands for."""
    found = counted(times)
    values = [found.quantile(share) or 0.0 for share in SHARES]
    assert values == sorted(values)
    for share, value in zip(SHARES, values, strict=True):
        bucket = bisect_left(BUCKETS, sorted(times)[max(0, ceil(share * len(times)) - 1)])
        assert ([0.0, *BUCKETS][bucket]) <= value <= BUCKETS[bucket]


def test_quantiles_of_odd_counts() -> None:
    """Nothing has no quantiles, long times count as the highest bound, and a wrong sum changes nothing."""
    assert counted([]).quantile(0.5) is None
    assert counted([9000.0, 20_000.0]).quantile(0.5) == BUCKETS[-1]
    counts = counted([0.7] * 4).counts
    assert Distribution(counts=counts, seconds=0.0).quantile(0.5) == 0.75
    assert Distribution(counts=counts, seconds=99.0).quantile(0.5) == 0.75
