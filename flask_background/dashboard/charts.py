"""Small charts, as numbers for the SVG in the templates. The number of points is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from markupsafe import Markup, escape

from flask_background.dashboard.history import Span, clock
from flask_background.dashboard.text import count, duration
from flask_background.monitoring.snapshots import Distribution, ItemSnapshot

WIDTH, HEIGHT = 720.0, 100.0
#: A value that is not nothing is drawn as high as this.
_LEAST_HEIGHT = 3.0
#: A run that is shorter than this share of the timeline is drawn as wide as this.
_LEAST = 0.006 * WIDTH


class Bar(NamedTuple):
    """A rectangle; ``kind`` is its class in the style sheet."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and its meaning in words. ``top``: the value at its upper edge."""

    label: str
    top: str
    bars: tuple[Bar, ...]

    @property
    def svg(self) -> Markup:
        """The rectangles, each with its title."""
        return Markup("").join(
            Markup(
                f'<rect class="{escape(kind)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
                f' height="{height:.1f}">'
                f"<title>{escape(title)}</title></rect>"
            )
            for kind, x, y, width, height, title in self.bars
        )

    @property
    def paths(self) -> Markup:
        """The same without titles, as one path for each kind: for many small charts on a page."""
        return Markup("").join(
            Markup('<path class="{}" d="{}"/>').format(
                kind,
                "".join(
                    f"M{bar.x:.0f} {bar.y:.0f}h{bar.width:.0f}v{bar.height:.0f}h-{bar.width:.0f}z"
                    for bar in self.bars
                    if bar.kind == kind
                ),
            )
            for kind in sorted({bar.kind for bar in self.bars})
        )


def ended(counts: Sequence[tuple[int, int]], over: Span) -> Chart:
    """Draw how many items ended, and how many of them failed, in each step."""
    top = max((number for number, _ in counts), default=0)
    step, begins = WIDTH / over.steps, clock(over)
    bars = []
    for place, (number, bad) in enumerate(counts):
        if not number:
            continue
        title = f"{begins[place]}: {count(number, 'item')} ended, {bad:,} failed"
        # Failed items stand at the bottom, so that their heights can be compared.
        low = _height(bad, top)
        if number > bad:
            low = min(low, HEIGHT - _LEAST_HEIGHT)
            high = max(_height(number, top) - low, _LEAST_HEIGHT)
            bars.append(Bar("good", place * step + 1, HEIGHT - low - high, step - 2, high, title))
        if bad:
            bars.append(Bar("bad", place * step + 1, HEIGHT - low, step - 2, low, title))
    total = count(sum(number for number, _ in counts), "item")
    label = (
        f"In the last {duration(over.length.total_seconds())} {total} ended,"
        f" {sum(bad for _, bad in counts):,} of them failed."
        f" The most in {duration(over.step.total_seconds())}: {top:,}."
    )
    return Chart(label, f"{top:,}", tuple(bars))


def waits(counts: Sequence[Distribution], over: Span, share: float = 0.95) -> Chart:
    """Draw how long most items have waited in each step."""
    values = [each.quantile(share) for each in counts]
    top = max((value for value in values if value is not None), default=0.0)
    step, begins = WIDTH / over.steps, clock(over)
    bars = [
        Bar(
            "wait",
            place * step + 1,
            HEIGHT - (high := _height(value, top)),
            step - 2,
            high,
            f"{begins[place]}: 95 % waited {duration(value)} at most",
        )
        for place, value in enumerate(values)
        if value is not None
    ]
    whole = duration(over.length.total_seconds())
    label = f"In the last {whole} 95 % of the items waited {duration(top)} at most, in the slowest step."
    return Chart(label if bars else f"No item ended in the last {whole}.", duration(top), tuple(bars))


def timeline(item: ItemSnapshot, now: datetime) -> Chart | None:
    """Draw an item's waits and runs from its enqueueing to its end; None if it never ran."""
    runs = [run for run in item.runs if run.started_at is not None][-200:]
    if not runs:
        return None
    begin = item.enqueued_at
    end = max([item.finished_at or now, begin, *(run.finished_at or now for run in runs)])
    whole = max((end - begin).total_seconds(), 1e-3)
    bars = [Bar("track", 0, 0, WIDTH, HEIGHT)]
    for run in runs:
        assert run.started_at is not None
        took = ((run.finished_at or now) - run.started_at).total_seconds()
        width = max(_LEAST, min(1.0, took / whole) * WIDTH)
        x = min(WIDTH - width, max(0.0, (run.started_at - begin).total_seconds() / whole * WIDTH))
        title = f"Attempt {run.attempt}: {run.how}, {duration(max(took, 0))}"
        bars.append(Bar(run.how, x, 0, width, HEIGHT, title))
    label = f"{count(len(runs), 'run')} within {duration(whole)} from the enqueueing of the item."
    return Chart(label, duration(whole), tuple(bars))


def _height(value: float, top: float) -> float:
    """Return the height of a bar; a small value is still to be seen."""
    return 0.0 if not value or not top else max(_LEAST_HEIGHT, value / top * HEIGHT)
