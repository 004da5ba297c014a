"""A view under a real gunicorn with two workers enqueues in all four ways: its metrics and its trace."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ..docs.pages import DOCS, blocks, save
from ..helpers import BOUND, free_port, until
from .conftest import Site, run_command
from .scrape import Scrape

TASKS = ("site.here", "site.kept", "site.elsewhere", "site.far")


def get(url: str) -> str:
    """The text that an address answers."""
    with urllib.request.urlopen(url, timeout=BOUND) as response:
        text: bytes = response.read()
        return text.decode()


def is_up(url: str) -> bool:
    """Whether an address answers."""
    try:
        get(url)
    except OSError:
        return False
    return True


def through_both(site: Site, path: str) -> list[dict[str, Any]]:
    """The answers to a path, until each worker of gunicorn has given one."""
    answers: list[dict[str, Any]] = []

    def ask() -> bool:
        answers.append(site.server.get(path))
        return len({answer["pid"] for answer in answers}) == 2

    until(ask)
    return answers


@pytest.fixture(scope="module")
def work(site_server: Site) -> list[dict[str, Any]]:
    """The items of several requests to both workers."""
    return through_both(site_server, "/work")


def test_counts_of_both_workers(site_server: Site, work: list[dict[str, Any]]) -> None:
    """Whichever worker answers a scrape, it has the items of all processes, and each gauge once."""

    def all_told() -> Scrape | None:
        scrape = Scrape(get(f"{site_server.server.url}/metrics"))
        ended = [scrape.get("items_total", task=task, status="succeeded") for task in TASKS]
        return scrape if ended == [len(work)] * 4 else None

    for _ in range(8):  # by either worker
        scrape = until(all_told)
        for task in TASKS:
            assert scrape.get("items_enqueued_total", task=task) == len(work)
            assert scrape.get("item_run_seconds_count", task=task) == len(work)
        assert scrape.get("up") == 1
        assert scrape.get("processes", role="gunicorn worker") == 2


def test_exporter(site_server: Site, work: list[dict[str, Any]], tmp_path: Path) -> None:
    """``flask background metrics`` serves the same, in a process of its own that runs no item."""
    log = tmp_path / "log"
    with run_command(log, site_server.env, "metrics", "--port", "0") as process:
        url = until(lambda: re.search(r"http://127\S+", log.read_text()))[0]
        scrape = Scrape(get(url))
        assert scrape.get("items_total", task="site.kept", status="succeeded") == len(work)
        assert scrape.get("processes", role="gunicorn worker") == 2
        process.terminate()
        assert process.wait(BOUND) in (-signal.SIGTERM, 128 + signal.SIGTERM), log.read_text()


def test_trace_in_all_four_ways(site_server: Site, work: list[dict[str, Any]]) -> None:
    """The trace of a view goes on in memory, in the journal, in a child process and in a Celery worker."""
    collector = site_server.collector
    pids = set()
    for answer in work:
        for saw in answer["saw"]:
            run = collector.get(bytes.fromhex(saw["span"]))
            send = collector.get(run.parent_span_id)
            view = collector.get(send.parent_span_id)
            assert (run.name, send.name) == (f"process {saw['task']}", f"send {saw['task']}")
            assert (run.kind, send.kind) == (run.SPAN_KIND_CONSUMER, run.SPAN_KIND_PRODUCER)
            assert view.name == "GET /work"
            assert run.trace_id == send.trace_id == view.trace_id
            assert not view.parent_span_id
            pids.add((saw["task"], saw["pid"] == answer["pid"]))
    assert pids == {
        ("site.here", True),
        ("site.kept", False),  # in the worker, which has taken it from the journal
        ("site.elsewhere", False),
        ("site.far", False),
    }


@pytest.fixture
def prometheus(site_server: Site, tmp_path: Path) -> Iterator[str]:
    """The address of a real Prometheus that scrapes the site."""
    port = free_port()
    target = site_server.server.url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "site", "static_configs": [{"targets": [target]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_up(f"{url}/-/ready"))
        yield url
    finally:
        process.kill()
        process.wait(BOUND)


def test_dashboard_in_prometheus(site_server: Site, work: list[dict[str, Any]], prometheus: str) -> None:
    """A real Prometheus scrapes the site, and answers each query of the Grafana dashboard from that."""

    def ask(query: str) -> list[Any]:
        url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        found: list[Any] = json.loads(get(url))["data"]["result"]
        return found

    through_both(site_server, "/fail")
    board = json.loads((files("flask_background.contrib") / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    names = set(re.findall(r"flask_background_\w+", " ".join(queries)))
    scraped = Scrape(get(f"{site_server.server.url}/metrics")).names
    rare = {"flask_background_items_refused_total"}  # there is no sample before the first one
    assert names - scraped <= rare
    until(lambda: len(ask('count_over_time(flask_background_up{job="site"}[1m]) >= 3')) == 1)
    for query in queries:
        for name, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$instance", ".*"), ("$task", ".*")):
            query = query.replace(name, value)
        if not any(name in query for name in rare):
            until(lambda query=query: ask(query))  # type: ignore[misc]
        else:
            ask(query)


def test_alerts(site_server: Site, work: list[dict[str, Any]], tmp_path: Path) -> None:
    """Prometheus finds nothing wrong with the alerts of the guide, whose metrics there are."""
    (alerts,) = blocks(DOCS / "guides" / "metrics.md", "yaml")
    save(tmp_path, alerts)
    subprocess.run(["promtool", "check", "rules", tmp_path / "alerts.yml"], check=True, capture_output=True)
    names = set(re.findall(r"flask_background_\w+", alerts.text))
    assert names <= Scrape(get(f"{site_server.server.url}/metrics")).names
