"""The public class: its receivers count what the signals of an app tell."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Any

import click
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from flask_background import Background, Status, WorkItem, signals
from flask_background.cli import METRICS
from flask_background.contrib.prometheus.gauges import Gauges
from flask_background.errors import ConfigurationError
from flask_background.monitoring.snapshots import BUCKETS

if TYPE_CHECKING:
    from datetime import datetime

    from flask import Flask

#: The environment variable of prometheus_client's multiprocess mode.
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
#: The ``task`` of items that have no label of their own.
OTHER = "other"


class PrometheusMetrics:
    """Counts items for Prometheus: ``PrometheusMetrics(app)``, or later ``init_app(app)``.

    ``registry``: prometheus_client's registry for the metrics, its default one if not given. ``max_tasks``:
    how many tasks have a label of their own, in the order in which they are made. The items of all other
    tasks, and of callables that are no tasks, share the label "other".
    """

    def __init__(
        self, app: Flask | None = None, *, registry: CollectorRegistry = REGISTRY, max_tasks: int = 100
    ) -> None:
        self._registry = registry
        self._max_tasks = max_tasks
        self._tasks: weakref.WeakKeyDictionary[Background, dict[str, _TaskMetrics]] = (
            weakref.WeakKeyDictionary()
        )
        self._gauges = Gauges(self._label)
        self._metrics = _Metrics(registry)
        if MULTIPROC_DIR not in os.environ:
            registry.register(self._gauges)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Count the items of an app from now on. ``Background.init_app`` has to be called before.

        If one object counts the items of several apps in a process, they are added up. Raises RuntimeError if
        the app has no Background, or has metrics already.
        """
        if "background" not in app.extensions:
            raise RuntimeError(f"app {app.name!r} has no Background: call Background(app) before this line")
        if METRICS in app.extensions:
            raise RuntimeError(f"app {app.name!r} already has metrics: call PrometheusMetrics(app) once")
        for signal, receiver in (
            (signals.item_enqueued, self._enqueued),
            (signals.item_started, self._started),
            (signals.item_retried, self._retried),
            (signals.item_finished, self._finished),
            (signals.item_refused, self._refused),
            (signals.items_recovered, self._recovered),
        ):
            signal.connect(receiver, app)
        if MULTIPROC_DIR in os.environ:
            app.extensions["background"].enable_monitoring(app)  # so that gauges know of other processes
        self._gauges.add(app)
        app.extensions[METRICS] = self  # the signals refer weakly to their receivers

    @property
    def registry(self) -> CollectorRegistry:
        """The registry to scrape: for ``generate_latest``, ``make_wsgi_app`` and ``start_http_server``.

        In multiprocess mode this registry has the metrics of all processes, also those of the app's own.
        """
        if MULTIPROC_DIR not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._gauges)
        return registry

    def serve(self, host: str = "127.0.0.1", port: int = 9464) -> None:
        """Answer Prometheus for all processes of the app on this machine, until this process is told to stop.

        ``port`` 0: a free one. Raises ConfigurationError outside of multiprocess mode, OSError if the address
        cannot be used.
        """
        if MULTIPROC_DIR not in os.environ:
            raise ConfigurationError(
                f"the counts of other processes cannot be seen: set {MULTIPROC_DIR} to one folder, for this"
                " process and for those that run items"
            )
        server, thread = start_http_server(port, host, self.registry)
        click.echo(f"Serving metrics on http://{host}:{server.server_port}/metrics", err=True)
        thread.join()

    def _of(self, app: Flask, task: str) -> _TaskMetrics:
        """Return the metrics of a task."""
        background: Background = app.extensions["background"]
        known = self._tasks.get(background)
        if known is None:
            known = self._tasks.setdefault(background, {})
        if (found := known.get(task)) is None:
            label = self._label(background, task)
            # Not by the names of callables, which have no bound.
            found = known.get(label) or known.setdefault(label, _TaskMetrics(self._metrics, label))
        return found

    def _label(self, background: Background, task: str) -> str:
        """Return the value of the label ``task`` for the items of a task."""
        names = background.task_names
        # By the order of the tasks, which is the same in all processes, and not by that of their items.
        return task if task in names and [*names].index(task) < self._max_tasks else OTHER

    # Receivers. The signals may come to send more values.

    def _enqueued(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        self._of(app, item.task_name).enqueued.inc()

    def _started(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        if item.attempt == 1:
            self._of(app, item.task_name).waits.observe(
                _seconds(max(item.enqueued_at, item.due_at), item.started_at)
            )

    def _retried(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        metrics = self._of(app, item.task_name)
        metrics.retried.inc()
        if (started := item.started_at) is not None:
            metrics.runs.observe(max(0.0, time.time() - started.timestamp()))

    def _finished(self, app: Flask, item: WorkItem[Any], **_: object) -> None:
        metrics, status = self._of(app, item.task_name), item.status
        metrics.ended[status].inc()
        # The run of an item that is on record as interrupted may go on, and end once more.
        if status is not Status.INTERRUPTED and (started := item.started_at) is not None:
            metrics.runs.observe(_seconds(started, item.finished_at))

    def _refused(self, app: Flask, task_name: str, error: Exception, **_: object) -> None:
        label = self._of(app, task_name).label
        self._metrics.refused.labels(label, type(error).__name__).inc()

    def _recovered(self, app: Flask, count: int, **_: object) -> None:
        self._metrics.recovered.inc(count)


class _Metrics:
    """The counters and histograms, in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"flask_background_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(f"flask_background_{name}", what, ("task",), registry=registry, buckets=BUCKETS)

        self.enqueued = counter("items_enqueued_total", "Items that code has enqueued.", "task")
        self.ended = counter("items_total", "Items that have ended.", "task", "status")
        self.retried = counter("items_retried_total", "Runs that failed and are repeated.", "task")
        self.refused = counter("items_refused_total", "Items that were not accepted.", "task", "reason")
        self.recovered = counter("items_recovered_total", "Items of processes that died, which run again.")
        self.waits = histogram("item_wait_seconds", "How long items waited for their first run.")
        self.runs = histogram("item_run_seconds", "How long runs took.")


class _TaskMetrics:
    """The metrics of one task: found once, because ``labels`` would take longer than to count.

    All are there from the first item on. The rate of a counter that begins at 1 would leave out the first
    failure.
    """

    def __init__(self, metrics: _Metrics, label: str) -> None:
        self.label = label
        self.enqueued = metrics.enqueued.labels(label)
        self.retried = metrics.retried.labels(label)
        self.waits = metrics.waits.labels(label)
        self.runs = metrics.runs.labels(label)
        self.ended = {
            status: metrics.ended.labels(label, status.value) for status in Status if status.is_final
        }


def _seconds(begin: datetime, end: datetime | None) -> float:
    return 0.0 if end is None else max(0.0, (end - begin).total_seconds())
