"""``cancel``, ``retry``, ``purge``, ``pause``, ``resume`` and ``run-now``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from click.testing import Result

from flask_background.app_state import state_of
from flask_background.cli.base import operator
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import Count

from ..helpers import Site, lines
from .conftest import one_line, said

Command = Callable[..., Result]


def enqueue(flask: Command, *args: str) -> str:
    """Enqueue an item, and return its id."""
    return str(said(flask("run", *args, "--json"))["id"])


def statuses(flask: Command) -> list[str]:
    """The statuses of all items, those enqueued first first."""
    return [item["status"] for item in said(flask("list", "--json"))["items"]][::-1]


def test_one_item(flask: Command) -> None:
    """An item is cancelled, retried and deleted; what cannot be done is an error of one line."""
    item_id = enqueue(flask, "double", "21")
    assert one_line(flask("retry", item_id)) == f"Error: item {item_id}: it is queued"
    assert said(flask("cancel", item_id, "--json")) == {"cancelled": 1}
    again = flask("cancel", item_id)
    assert (again.exit_code, one_line(again)) == (1, f"Error: item {item_id}: it is cancelled")
    assert flask("retry", item_id).output == "1 item retried\n"
    assert one_line(flask("purge", item_id)) == f"Error: item {item_id}: it is queued"
    assert flask("cancel", item_id).exit_code == 0
    assert said(flask("purge", item_id, "--json")) == {"purged": 1}
    assert statuses(flask) == []


def test_several_items(flask: Command) -> None:
    """Of several items those are changed that can be; the others are named."""
    ids = [enqueue(flask, "double", str(number)) for number in range(2)]
    result = flask("cancel", "nobody", *ids)
    assert result.exit_code == 0
    assert result.stdout == "2 items cancelled, or asked to end\n"
    assert result.stderr == "Error: item nobody: it is not known\n"


def test_selected_items(site: Site, flask: Command) -> None:
    """All selected items are changed, after a question that names their number."""
    for number in range(3):
        enqueue(flask, "double", str(number))
    enqueue(flask, "fail")
    runner = site.app.test_cli_runner()
    command = ["background", "cancel", "--task", "*.double"]
    asked = runner.invoke(args=command, input="n\n")
    assert asked.exit_code == 1
    assert "Cancel 3 items (task *.double)?" in asked.stderr
    assert statuses(flask) == ["queued"] * 4
    assert runner.invoke(args=command, input="y\n").exit_code == 0
    assert statuses(flask) == ["cancelled"] * 3 + ["queued"]
    assert flask("retry", "--status", "cancelled", "--task", "shop.*", "--yes").output == "3 items retried\n"
    assert statuses(flask) == ["queued"] * 4


def test_nothing_selected(flask: Command) -> None:
    """If there is nothing to do, nobody is asked, and the exit status says so."""
    enqueue(flask, "double", "1")
    for command, answer in (("retry", '{"retried": 0}'), ("purge", '{"purged": 0}')):
        result = flask(command, "--task", "*", "--json")
        assert (result.exit_code, result.stdout, result.stderr) == (1, f"{answer}\n", "")


def test_many_items(site: Site, flask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """If counting would take long, the question says that there may be more, and all are changed."""
    for number in range(3):
        enqueue(flask, "double", str(number))
    for count, text in ((Count(items=2, is_exact=False), "at least 2 items"),
                        (Count(items=0, is_exact=False), "an unknown number of items")):  # fmt: skip
        monkeypatch.setattr(Monitor, "count", lambda monitor, queries, count=count: count)
        asked = site.app.test_cli_runner().invoke(args=["background", "cancel", "--text", "x"], input="n\n")
        assert f"Cancel {text} (text x)?" in asked.stderr
    command = ["background", "cancel", "--task", "*"]
    assert site.app.test_cli_runner().invoke(args=command, input="y\n").exit_code == 0
    assert statuses(flask) == ["cancelled"] * 3


def test_purge(site: Site, flask: Command) -> None:
    """``purge`` deletes items that have ended, of one status, that ended long ago, or all."""
    item_id = enqueue(flask, "double", "1")
    enqueue(flask, "double", "2")
    flask("cancel", item_id)
    assert flask("purge").exit_code == 1  # nobody has answered
    assert flask("purge", "--yes", "--status", "failed").exit_code == 1
    writer = state_of(site.app).durable.session.writer
    writer.write(lambda db: db.execute("update item set enqueued = 1000000000") and None)
    assert flask("purge", "--yes", "--older-than", "1h").exit_code == 1  # it is old, but has ended just now
    asked = site.app.test_cli_runner().invoke(args=["background", "purge", "--older-than", "0s"], input="n\n")
    assert "Purge 1 item (ended before 20" in asked.stderr
    assert said(flask("purge", "--yes", "--older-than", "0s", "--json")) == {"purged": 1}
    assert statuses(flask) == ["queued"]


@pytest.mark.parametrize("target", [["shop.double"], ["--executor", "thread"]])
def test_pause(flask: Command, target: list[str]) -> None:
    """Items of a paused task, or executor, wait until it is resumed; that is seen."""
    assert "paused" in flask("pause", *target).output
    again = flask("pause", *target, "--json")
    assert (again.exit_code, '"paused": false' in again.output) == (1, True)
    enqueue(flask, "double", "1")
    assert flask("worker", "--burst").exit_code == 0
    assert statuses(flask) == ["queued"]
    assert "queued (paused)" in flask("list").output
    assert f"{target[-1]}, " in flask("stats").output
    assert f"by {operator()}" in flask("stats").output
    assert said(flask("resume", *target, "--json"))["resumed"]
    assert flask("resume", *target).exit_code == 1
    assert flask("worker", "--burst").exit_code == 0
    assert statuses(flask) == ["succeeded"]


def test_pause_of_a_task_in_memory(flask: Command) -> None:
    """A pause holds back durable items alone, and the command says so where a task has none."""
    paused = flask("pause", "shop.greet", "--json")
    assert json.loads(paused.stdout)["paused"]
    assert "The task shop.greet is not durable" in paused.stderr
    assert flask("pause", "shop.double").stderr == ""


def test_run_now(site: Site, flask: Command) -> None:
    """A periodic task is enqueued beside its schedule; while its item waits there is no second one."""
    site.background.periodic(seconds=3600, name="shop.tidy")(lambda: None)
    item_id = said(flask("run-now", "shop.tidy", "--json"))["id"]
    assert said(flask("show", item_id, "--json"))["task"] == "shop.tidy"
    again = flask("run-now", "shop.tidy")
    assert (again.exit_code, again.stdout) == (1, "shop.tidy: an earlier item has not ended\n")


def test_log(flask: Command, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the user of the operating system who has acted."""
    caplog.set_level(logging.INFO)
    item_id = enqueue(flask, "double", "1")
    flask("cancel", item_id)
    assert [line for line in lines(caplog) if "1 item cancelled" in line and operator() in line]
