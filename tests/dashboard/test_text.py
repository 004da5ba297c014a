"""Numbers, times and texts, as pages write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flask_background.dashboard import charts, history, text
from flask_background.monitoring.snapshots import BUCKETS, Distribution

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "—"),
        (0, "0 s"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (1.26, "1.3 s"),
        (9.99, "10 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (601, "10 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_400 * 1.5, "1 d 12 h"),
        (86_400 * 5000, "5,000 d"),
    ],
)
def test_duration(seconds: float | None, words: str) -> None:
    """Two units at most, and no false precision."""
    assert text.duration(seconds) == words


def test_distance() -> None:
    """The past and the future."""
    assert text.distance(NOW + timedelta(minutes=5), NOW) == "in 5 min"
    assert text.distance(NOW - timedelta(hours=3), NOW) == "3 h ago"
    assert text.distance(NOW, NOW) == "now"
    assert text.distance(None, NOW) == "—"


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(0, 0, "—"), (0, 9, "0 %"), (1, 3, "33 %"), (1, 90, "1.1 %"), (1, 10**6, "< 0.1 %"), (9, 9, "100 %")],
)
def test_share(part: int, whole: int, words: str) -> None:
    """A share that is not nothing never looks like nothing."""
    assert text.share(part, whole) == words


def test_shown() -> None:
    """One line, cut, with hidden characters made visible, and the marks of scripts left as they are."""
    assert text.shown("a\r\n\tb") == "a b"
    assert text.shown("x" * 300) == "x" * 200 + "…"
    assert text.shown("a\u202eb\x00\ud800") == r"a\u202eb\x00\ud800"
    for kept in ("\N{FAMILY}\u200d\N{GIRL}", "नमस्ते", "مرحبا", "e\u0301"):
        assert text.shown(kept) == kept


def test_shown_lines() -> None:
    """The middle of a long text is left out."""
    shown = text.shown_lines("begin" + "x" * 50_000 + "end\x1b")
    assert shown.startswith("begin")
    assert shown.endswith("end\\x1b")
    assert "30,009 characters are left out" in shown


def _waits(number: int, bucket: int) -> Distribution:
    counts = [0] * (len(BUCKETS) + 1)
    counts[bucket] = number
    return Distribution(counts=tuple(counts), seconds=float(number))


def test_charts_are_bounded() -> None:
    """A chart has at most two bars per step, within its frame, however far the values are apart."""
    over = history.span(NOW, timedelta(minutes=5), 36)
    assert over.until > NOW
    assert over.since + timedelta(hours=3) == over.until
    ended = charts.ended([(10**number, 10**number - number % 3) for number in range(36)], over)
    waits = charts.waits([_waits(number, number % 17) for number in range(36)], over)
    assert len(ended.bars) > 36
    for chart in (ended, waits):
        assert 0 < len(chart.bars) <= 72
        for bar in chart.bars:
            assert 0 <= bar.x <= bar.x + bar.width <= charts.WIDTH
            assert 0 <= bar.y <= bar.y + bar.height <= charts.HEIGHT + 0.1
            assert bar.height > 0
    assert charts.ended([(0, 0)] * 36, over).bars == ()
    assert charts.waits([_waits(0, 0)] * 36, over).label == "No item ended in the last 3 h."
