"""Metrics for Prometheus: from signals in this process, and from a real gunicorn with two workers."""

from __future__ import annotations

import json
import socket
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest

from flask_background import Status, signals
from flask_background.contrib.prometheus import PrometheusMetrics
from flask_background.errors import JournalError, QueueFull

from ..helpers import BOUND, Site, until
from .scrape import Scrape


class Counted:
    """An app with metrics."""

    def __init__(self, site: Site, **options: Any) -> None:
        self.app, self.background = site.app, site.background
        self.metrics = PrometheusMetrics(self.app, registry=CollectorRegistry(), **options)

    def scrape(self) -> Scrape:
        """Scrape it now, once all that has ended was told."""
        with self.app.app_context():
            assert self.background.wait_idle(BOUND)
        return Scrape(generate_latest(self.metrics.registry).decode())


@pytest.fixture
def counted(make_site: Callable[..., Site]) -> Counted:
    """An app whose items are counted."""
    return Counted(make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1))


def test_items_are_counted_by_task_and_status(counted: Counted) -> None:
    """Each item counts once as enqueued, once with its final status, and its wait and run are observed."""

    @counted.background.task(name="shop.mail")
    def mail(fails: bool) -> None:
        if fails:
            raise ValueError

    for fails in (False, False, True):
        mail.enqueue(fails).wait(BOUND)
    scrape = counted.scrape()
    assert scrape.get("items_enqueued_total", task="shop.mail") == 3
    assert scrape.get("items_total", task="shop.mail", status="succeeded") == 2
    assert scrape.get("items_total", task="shop.mail", status="failed") == 1
    assert scrape.get("item_wait_seconds_count", task="shop.mail") == 3
    assert scrape.get("item_run_seconds_count", task="shop.mail") == 3
    assert 0 < (scrape.get("item_run_seconds_sum", task="shop.mail") or 0) < BOUND


def test_repeated_runs(counted: Counted) -> None:
    """A run that is repeated counts as a run and as a retry; the item's wait is that for its first run."""

    @counted.background.task(name="shop.mail", max_attempts=3, backoff=0.001)
    def mail() -> None:
        raise ValueError

    mail.enqueue().wait(BOUND)
    scrape = counted.scrape()
    assert scrape.get("items_retried_total", task="shop.mail") == 2
    assert scrape.get("item_run_seconds_count", task="shop.mail") == 3
    assert scrape.get("item_wait_seconds_count", task="shop.mail") == 1
    assert scrape.get("items_total", task="shop.mail", status="failed") == 1


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "journal"])
def test_delay_is_no_wait(make_site: Callable[..., Site], tmp_path: Path, durable: bool) -> None:
    """An item waits from the time at which it was due, not from its enqueue."""
    counted = Counted(make_site(BACKGROUND_JOURNAL=str(tmp_path)))
    task = counted.background.task(name="shop.later", durable=durable)(lambda: None)
    item = task.using(delay=0.2).enqueue()
    assert item.due_at - item.enqueued_at == pytest.approx(
        timedelta(seconds=0.2), abs=timedelta(seconds=0.01)
    )
    assert item.wait(BOUND)
    assert item.started_at is not None
    waited = (item.started_at - item.due_at).total_seconds()
    assert counted.scrape().get("item_wait_seconds_sum", task="shop.later") == pytest.approx(waited, abs=0.01)


def test_refusals(counted: Counted, gate: threading.Event) -> None:
    """A refused item counts by the class of the error that its view got."""
    hold = counted.background.task(name="shop.hold")(gate.wait)
    items = [hold.enqueue(BOUND)]
    until(lambda: items[0].status is Status.RUNNING)
    items.append(hold.enqueue(BOUND))
    with pytest.raises(QueueFull):
        hold.enqueue(BOUND)
    gate.set()
    assert counted.scrape().get("items_refused_total", task="shop.hold", reason="QueueFull") == 1


def test_cancelled_in_the_queue(counted: Counted, gate: threading.Event) -> None:
    """An item that never ran has a status, and neither a wait nor a run."""
    running = counted.background.enqueue(gate.wait, BOUND)
    until(lambda: running.status is Status.RUNNING)
    queued = counted.background.task(name="shop.never")(lambda: None).enqueue()
    queued.cancel()
    gate.set()
    scrape = counted.scrape()
    assert scrape.get("items_total", task="shop.never", status="cancelled") == 1
    assert scrape.get("item_run_seconds_count", task="shop.never") == 0


def test_number_of_labels_is_bounded(make_site: Callable[..., Site]) -> None:
    """The first tasks have labels, whichever runs first; other tasks and all callables share one."""
    counted = Counted(make_site(), max_tasks=2)
    tasks = [counted.background.task(name=f"shop.{number}")(lambda: None) for number in range(4)]
    for task in reversed(tasks):
        task.enqueue()
    for number in range(3):
        func = lambda: None  # noqa: E731
        func.__qualname__ = f"made_{number}"
        counted.background.enqueue(func)
    scrape = counted.scrape()
    assert scrape.labels("items_total", "task") == {"shop.0", "shop.1", "other"}
    assert scrape.get("items_total", task="other") == 2 + 3
    assert scrape.labels("items_in_flight", "task") <= {"shop.0", "shop.1", "other"}


def test_recovered_items(counted: Counted) -> None:
    """The items that a dead process has left are counted when they are queued again."""
    signals.items_recovered.send(counted.app, count=3)
    assert counted.scrape().get("items_recovered_total") == 3


def test_gauges(counted: Counted, gate: threading.Event) -> None:
    """A scrape says how many items are in flight, and how much each executor holds."""
    hold = counted.background.task(name="shop.hold")(gate.wait)
    items = [hold.enqueue(BOUND)]
    until(lambda: items[0].status is Status.RUNNING)
    items.append(hold.enqueue(BOUND))
    scrape = Scrape(generate_latest(counted.metrics.registry).decode())
    gate.set()
    assert scrape.get("up") == 1
    assert scrape.get("items_in_flight", task="shop.hold", executor="thread", status="running") == 1
    assert scrape.get("items_in_flight", task="shop.hold", executor="thread", status="queued") == 1


def test_journal_that_cannot_be_asked(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape has the counters although the journal cannot be read, and says so."""

    def fail(*_: object) -> None:
        raise JournalError("no disk")

    monkeypatch.setattr("flask_background.monitoring.monitor.Monitor.counts", fail)
    counted.background.enqueue(lambda: None).wait(BOUND)
    scrape = counted.scrape()
    assert scrape.get("up") == 0
    assert scrape.get("items_total", task="other") == 1
    assert scrape.get("items_in_flight") is None


def test_needs_a_background(make_site: Callable[..., Site]) -> None:
    """An app without a Background is refused, and an app that has metrics already."""
    with pytest.raises(RuntimeError, match="has no Background"):
        PrometheusMetrics(Flask("bare"), registry=CollectorRegistry())
    app = make_site().app
    metrics = PrometheusMetrics(app, registry=CollectorRegistry())
    with pytest.raises(RuntimeError, match="already has metrics"):
        metrics.init_app(app)


def test_several_apps(make_site: Callable[..., Site]) -> None:
    """One object adds up the items of several apps, such as those that a factory makes."""
    metrics = PrometheusMetrics(registry=CollectorRegistry())
    sites = [make_site(), make_site()]
    for site in sites:
        metrics.init_app(site.app)
        site.background.task(name="shop.mail")(lambda: None).enqueue().wait(BOUND)
        assert site.background.wait_idle(BOUND)
    scrape = Scrape(generate_latest(metrics.registry).decode())
    assert scrape.get("up") == 1
    assert scrape.get("items_total", task="shop.mail", status="succeeded") == 2


def test_app_is_freed(make_site: Callable[..., Site]) -> None:
    """Metrics keep no app alive; without an app a scrape says that there is nothing to look at."""
    metrics = PrometheusMetrics(registry=CollectorRegistry())
    site = make_site()
    metrics.init_app(site.app)
    app = weakref.ref(site.app)
    del site
    assert app() is None
    assert Scrape(generate_latest(metrics.registry).decode()).get("up") == 0


def test_dashboard_file() -> None:
    """The Grafana dashboard has what an import needs, and refers to nothing of one installation."""
    board = json.loads((files("flask_background.contrib") / "grafana.json").read_text())
    assert board["title"] == "Flask-Background"
    assert (board["id"], board["uid"], board["schemaVersion"]) == (None, "flask-background", 37)
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query", "task": "query"}
    places = set()
    for number, panel in enumerate(board["panels"], 1):
        assert (panel["id"], panel["type"] in ("stat", "timeseries")) == (number, True)
        assert panel["title"]
        assert panel["description"].endswith(".")
        place = panel["gridPos"]
        taken = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & places
        assert place["x"] + place["w"] <= 24
        places |= taken
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(panel["targets"])])
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_command_without_metrics(make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """``flask background metrics`` says what it lacks: metrics, a folder, or an address."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    app = make_site().app

    def run(*options: str) -> str:
        result = app.test_cli_runner().invoke(args=["background", "metrics", *options])
        assert result.exit_code == 1
        return result.output

    assert "has no metrics: call PrometheusMetrics(app)" in run()
    PrometheusMetrics(app, registry=CollectorRegistry())
    assert "set PROMETHEUS_MULTIPROC_DIR to one folder" in run()


def test_address_that_is_taken(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An address that cannot be used is an error of one line."""
    app = make_site(BACKGROUND_JOURNAL=str(tmp_path)).app
    PrometheusMetrics(app, registry=CollectorRegistry())
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = app.test_cli_runner().invoke(args=["background", "metrics", "--port", port])
    assert f"Error: the address 127.0.0.1:{port} cannot be used" in result.output
