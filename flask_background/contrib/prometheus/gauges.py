"""The gauges: looked up by ``Background.monitor`` whenever Prometheus asks."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flask_background import Background
from flask_background.errors import BackgroundError

if TYPE_CHECKING:
    from flask import Flask

# A short period: its counts are not shown, so they are not worth the time to add them up.
_PERIOD = timedelta(minutes=1)


class Gauges(Collector):
    """The gauges of some apps. ``label`` returns the label of a task."""

    def __init__(self, label: Callable[[Background, str], str]) -> None:
        self._label = label
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()  # a registry must not keep an app alive

    def add(self, app: Flask) -> None:
        """Look at this app, too."""
        self._apps.add(app)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a registry would otherwise look at the apps when the gauges are registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Look at the apps' items and processes."""
        apps, seen = [*self._apps], _Seen()
        up = bool(apps)
        for app in apps:
            try:
                with app.app_context():
                    seen.look(app.extensions["background"], self._label)
            except BackgroundError:
                up = False
        yield _gauge("up", "Whether the items could be looked at for this scrape.", {(): up})
        if up:
            yield from seen.gauges()


class _Seen:
    """The numbers of one scrape, by their labels."""

    def __init__(self) -> None:
        self._in_flight: Counter[tuple[str, ...]] = Counter()
        self._late: Counter[tuple[str, ...]] = Counter()
        self._at_celery: Counter[tuple[str, ...]] = Counter()
        self._processes: Counter[tuple[str, ...]] = Counter()
        self._workers: Counter[tuple[str, ...]] = Counter()
        self._held: Counter[tuple[str, ...]] = Counter()
        self._paused: dict[tuple[str, ...], int] = {}
        self._oldest_wait = 0.0

    def look(self, background: Background, label_of: Callable[[Background, str], str]) -> None:
        """Add the numbers of an app. Raises JournalError."""
        monitor = background.monitor
        counts = monitor.counts()
        self._oldest_wait = max(self._oldest_wait, counts.oldest_wait or 0.0)
        for status, count in counts.celery.items():
            self._at_celery[(status.value,)] += count
        for task in monitor.tasks(_PERIOD):
            label, executor = label_of(background, task.name), task.executor or ""
            self._late[(label,)] += task.late
            self._in_flight[label, executor, "queued"] += task.queued
            self._in_flight[label, executor, "running"] += task.running
        for process in monitor.processes():
            if process.role == "command":  # such as the one that may be answering here; it runs no items
                continue
            self._processes[process.role, process.phase] += 1
            for load in process.executors:
                self._workers[(load.name,)] += load.workers
                self._held[load.name, "queued"] += load.queued
                self._held[load.name, "running"] += load.running
        self._paused |= {(pause.kind, pause.name): 1 for pause in monitor.pauses()}

    def gauges(self) -> Iterator[Metric]:
        """Return the gauges with these numbers."""
        oldest: dict[tuple[str, ...], float] = {(): self._oldest_wait}
        yield _gauge(
            "items_in_flight", "Items queued and running.", self._in_flight, "task", "executor", "status"
        )
        yield _gauge("items_late", "Items that have been due for longer than a minute.", self._late, "task")
        yield _gauge("oldest_wait_seconds", "How long the item that is late most has waited.", oldest)
        yield _gauge("celery_items", "Items in the Celery cluster.", self._at_celery, "status")
        yield _gauge("processes", "Processes on this machine.", self._processes, "role", "phase")
        yield _gauge("executor_workers", "Items that executors run at once.", self._workers, "executor")
        yield _gauge("executor_items", "Items that executors hold.", self._held, "executor", "status")
        yield _gauge("paused", "Tasks and executors that are paused.", self._paused, "kind", "name")


def _gauge(name: str, what: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    gauge = GaugeMetricFamily(f"flask_background_{name}", what, labels=labels)
    for key, value in values.items():
        gauge.add_metric(key, value)
    return gauge
