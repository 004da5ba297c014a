"""Metrics for Prometheus: counters and histograms from the signals, gauges from ``Background.monitor``.

Needs the extra ``prometheus``. In prometheus_client's multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``) the
counters of all processes of a machine are added up at each scrape. The gauges are asked for anew at each
scrape, by the process that answers it, so there is no gauge to remove when a process has died.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter as Count
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from flask_background import Background, Status, WorkItem, signals
from flask_background.cli.base import command
from flask_background.errors import BackgroundError
from flask_background.monitoring.snapshots import BUCKETS

if TYPE_CHECKING:
    from datetime import datetime

    from flask import Flask

    from flask_background.app_state import BackgroundState

#: The ``task`` of items that have no label of their own.
OTHER = "other"
_MODE = "PROMETHEUS_MULTIPROC_DIR"
_EXTENSION = "background.prometheus"


class PrometheusMetrics:
    """Counts the items of one app for Prometheus: ``PrometheusMetrics(app)``, or later ``init_app(app)``.

    ``registry``: prometheus_client's registry for the metrics, its default one if not given. ``max_tasks``:
    how many tasks have a label of their own, in the order in which they are made. The items of all other
    tasks, and of callables that are no tasks, share the label "other".
    """

    def __init__(
        self, app: Flask | None = None, *, registry: CollectorRegistry = REGISTRY, max_tasks: int = 100
    ) -> None:
        self._registry = registry
        self._max_tasks = max_tasks
        self._background: Background | None = None
        self._app: weakref.ref[Flask] | None = None
        self._labels: dict[str, str] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Count the items of an app from now on. ``Background.init_app`` has to be called before.

        Raises RuntimeError if the app has no Background, or if these metrics have an app already: the items
        of two apps could not be told apart.
        """
        background = app.extensions.get("background")
        if background is None:
            raise RuntimeError(f"app {app.name!r} has no Background: call Background(app) before this line")
        if self._background is not None or _EXTENSION in app.extensions:
            raise RuntimeError(
                f"PrometheusMetrics counts the items of one app, once: app {app.name!r} needs metrics of its"
                " own, with a registry of its own"
            )
        self._background, self._app = background, weakref.ref(app)
        self._make_metrics()
        for signal, receiver in (
            (signals.item_enqueued, self._enqueued),
            (signals.item_started, self._started),
            (signals.item_retried, self._retried),
            (signals.item_finished, self._finished),
            (signals.item_refused, self._refused),
            (signals.items_recovered, self._recovered),
        ):
            signal.connect(receiver, app)
        app.extensions[_EXTENSION] = self  # blinker refers weakly to the receivers

    @property
    def registry(self) -> CollectorRegistry:
        """The registry to scrape: for ``generate_latest``, ``make_wsgi_app`` and ``start_http_server``.

        In multiprocess mode this registry has the metrics of all processes, also those of the app's own.
        """
        if _MODE not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._gauges)
        return registry

    def _make_metrics(self) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"flask_background_{name}", what, labels, registry=self._registry)

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(
                f"flask_background_{name}", what, ("task",), registry=self._registry, buckets=BUCKETS
            )

        self._items_enqueued = counter("items_enqueued_total", "Items that were accepted.", "task")
        self._items_ended = counter("items_total", "Items that have ended.", "task", "status")
        self._items_retried = counter("items_retried_total", "Runs that failed and are repeated.", "task")
        self._items_refused = counter("items_refused_total", "Items not accepted.", "task", "reason")
        self._items_recovered = counter(
            "items_recovered_total", "Items of processes that died, which run again."
        )
        self._wait_seconds = histogram("item_wait_seconds", "How long items waited for their first run.")
        self._run_seconds = histogram("item_run_seconds", "How long runs took.")
        self._gauges = _Gauges(self)
        if _MODE not in os.environ:
            self._registry.register(self._gauges)

    def _label(self, task: str) -> str:
        """Return the value of the label ``task`` for the items of a task."""
        label = self._labels.get(task)
        if label is not None:
            return label
        assert self._background is not None
        # By the order of the tasks, which is the same in all processes, and not by that of their items.
        names = tuple(self._background.task_names)
        if task not in names:
            return OTHER  # not kept: the names of callables have no bound
        self._labels[task] = label = task if names.index(task) < self._max_tasks else OTHER
        return label

    # Receivers. The signals may come to send more values.

    def _enqueued(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        self._items_enqueued.labels(self._label(item.task_name)).inc()

    def _started(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        if item.attempt == 1:
            waited = _seconds(item.enqueued_at, item.started_at)
            self._wait_seconds.labels(self._label(item.task_name)).observe(waited)

    def _retried(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        label = self._label(item.task_name)
        self._items_retried.labels(label).inc()
        if (started := item.started_at) is not None:
            self._run_seconds.labels(label).observe(max(0.0, time.time() - started.timestamp()))

    def _finished(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        label, status = self._label(item.task_name), item.status
        self._items_ended.labels(label, status.value).inc()
        # The run of an item that is on record as interrupted may go on, and end once more.
        if status is not Status.INTERRUPTED and (started := item.started_at) is not None:
            self._run_seconds.labels(label).observe(_seconds(started, item.finished_at))

    def _refused(self, app: Flask, task_name: str, error: Exception, **_: object) -> None:
        self._items_refused.labels(self._label(task_name), type(error).__name__).inc()

    def _recovered(self, app: Flask, count: int, **_: object) -> None:
        self._items_recovered.inc(count)

    # For the gauges.

    def _look(self) -> Iterator[Metric]:
        app = None if self._app is None else self._app()
        if app is None or self._background is None:
            return  # the app is gone, and the registry is not
        up = GaugeMetricFamily(
            "flask_background_up", "Whether the app's items could be looked at for this scrape."
        )
        with app.app_context():
            try:
                found = [*self._find(self._background)]
            except BackgroundError:
                found = []
                up.add_metric((), 0.0)
            else:
                up.add_metric((), 1.0)
        yield up
        yield from found

    def _find(self, background: Background) -> Iterator[Metric]:
        monitor = background.monitor
        counts, tasks, processes = monitor.counts(), monitor.tasks(), monitor.processes()
        flight: Count[tuple[str, ...]] = Count()
        late: Count[tuple[str, ...]] = Count()
        for task in tasks:
            label = self._label(task.name)
            late[(label,)] += task.late
            flight[label, task.executor or "", "queued"] += task.queued
            flight[label, task.executor or "", "running"] += task.running
        yield _gauge("items_in_flight", "Items queued and running.", flight, "task", "executor", "status")
        yield _gauge("items_late", "Items due for longer than a minute.", late, "task")
        oldest = {(): counts.oldest_wait or 0.0}
        yield _gauge("oldest_wait_seconds", "How long the item that is due for longest has waited.", oldest)
        if counts.celery:
            at_celery = {(status.value,): count for status, count in counts.celery.items()}
            yield _gauge("celery_items", "Items in the Celery cluster.", at_celery, "status")
        alive: Count[tuple[str, ...]] = Count()
        workers: Count[tuple[str, ...]] = Count()
        loads: Count[tuple[str, ...]] = Count()
        for process in processes:
            alive[process.role, process.phase] += 1
            for load in process.executors:
                workers[(load.name,)] += load.workers
                loads[load.name, "queued"] += load.queued
                loads[load.name, "running"] += load.running
        yield _gauge("processes", "Processes of the app on this machine.", alive, "role", "phase")
        yield _gauge("executor_workers", "Items that executors can run at once.", workers, "executor")
        yield _gauge("executor_items", "Items that executors hold.", loads, "executor", "status")
        paused = {(pause.kind, pause.name): 1 for pause in monitor.pauses()}
        yield _gauge("paused", "Tasks and executors that are paused.", paused, "kind", "name")


class _Gauges(Collector):
    """The gauges of an app, in a registry."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a registry would otherwise look at the app when the gauges are registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Look at the app's items and processes."""
        return self._metrics._look()


def _gauge(name: str, what: str, values: Any, *labels: str) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"flask_background_{name}", what, labels=labels)
    for key, value in values.items():
        gauge.add_metric(key, value)
    return gauge


def _seconds(begin: datetime, end: datetime | None) -> float:
    return 0.0 if end is None else max(0.0, (end - begin).total_seconds())


@command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9464, show_default=True)
def serve_metrics(state: BackgroundState, host: str, port: int) -> None:
    """Serve the metrics of all processes on this machine to Prometheus, until TERM or INT."""
    metrics = current_app.extensions.get(_EXTENSION)
    if metrics is None:
        raise click.ClickException(f"app {current_app.name!r} has no metrics: call PrometheusMetrics(app)")
    if _MODE not in os.environ:
        raise click.ClickException(
            f"only this process's own counts could be seen: set {_MODE} to one folder for this command and"
            " for the processes that run items"
        )
    server, thread = start_http_server(port, host, metrics.registry)
    click.echo(f"Serving metrics on http://{host}:{server.server_port}/metrics", err=True)
    thread.join()
