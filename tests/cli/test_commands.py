"""``flask background``: the commands that look at durable items, and change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.cli.commands import background as group

from ..helpers import BOUND, Site


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with three tasks, and a journal; it leaves durable items to workers."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)
    site.background.task(durable=True, name="shop.double")(lambda n, suffix="": f"{n * 2}{suffix}")
    site.background.task(durable=True, name="shop.fail")(lambda: [][0])
    site.background.task(name="shop.greet")(lambda name: {"hello": name})
    return site


@pytest.fixture
def flask(site: Site) -> Callable[..., Result]:
    """Runs a command as ``flask background`` does."""

    def call(*args: str) -> Result:
        result: Result = site.app.test_cli_runner().invoke(group, args)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


def said(result: Result) -> Any:
    """What a command printed as JSON."""
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def one_line(result: Result) -> str:
    """The error of a command that failed."""
    *_, line = result.stderr.strip().splitlines()
    return line


def test_found_by_flask() -> None:
    """The distribution names the commands, so that init_app has nothing to import for them."""
    (entry,) = entry_points(group="flask.commands", name="background")
    assert entry.load() is group


def test_run_durable(site: Site, flask: Callable[..., Result]) -> None:
    """A durable item is left to the workers; arguments are JSON, or else strings."""
    answer = said(flask("run", "double", "[1, 2]", "x", "--json"))
    assert answer["status"] == "queued"
    with site.app.app_context():
        item = site.background.get(answer["id"])
    assert item is not None
    assert item.status is Status.QUEUED
    assert site.app.test_cli_runner().invoke(group, ["worker", "--burst"]).exit_code == 0


def test_run_in_memory(flask: Callable[..., Result]) -> None:
    """Another item runs here, and its result is printed."""
    assert "succeeded: {'hello': 'ada'}" in flask("run", "greet", "ada").output


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "nothing"), 2, "there is no task named 'nothing'; there are: shop.double, shop.fail"),
        (("run", "double"), 2, "missing"),
        (("show", "abc"), 1, "no item 'abc'"),
        (("cancel", "abc"), 1, "no item 'abc'"),
        (("retry", "abc"), 1, "no item 'abc'"),
        (("list", "--status", "lost"), 2, "lost"),
        (("worker", "--executor", "gpu"), 2, "'gpu' is no executor of this app; it has asyncio, thread"),
    ],
)
def test_errors(flask: Callable[..., Result], args: tuple[str, ...], code: int, words: str) -> None:
    """One line, and 1 for what did not work, 2 for what makes no sense."""
    result = flask(*args)
    assert result.exit_code == code
    assert words in one_line(result)
    assert "Traceback" not in result.output


def test_journal_that_cannot_be_opened(site: Site, flask: Callable[..., Result]) -> None:
    """A file in the folder's place is one line, too."""
    site.app.config["BACKGROUND_JOURNAL"].write_text("")
    result = flask("list")
    assert result.exit_code == 1
    assert "journal" in one_line(result)


def test_a_day_of_an_item(site: Site, flask: Callable[..., Result]) -> None:
    """It is listed, shown, cancelled, retried, run, counted and forgotten; its arguments are not shown."""
    item_id = said(flask("run", "double", "21", "s3cret", "--json"))["id"]
    said(flask("run", "fail", "--json"))
    assert [entry["task"] for entry in said(flask("list", "--json"))] == ["shop.double", "shop.fail"]
    assert [entry["id"] for entry in said(flask("list", "--json", "--task", "shop.double"))] == [item_id]
    assert flask("list").output.splitlines()[0].split() == ["id", "status", "attempt", "age", "task"]
    shown = said(flask("show", item_id, "--json"))
    assert shown["enqueued"].endswith("+00:00")
    assert "s3cret" not in flask("show", item_id).output + flask("list").output + json.dumps(shown)

    assert said(flask("cancel", item_id, "--json")) == {"id": item_id, "status": "cancelled"}
    assert "it has ended" in one_line(flask("cancel", item_id))
    assert said(flask("retry", item_id, "--json")) == {"id": item_id, "status": "queued"}
    assert "it is queued" in one_line(flask("retry", item_id))
    assert said(flask("stats", "--json"))["queued"] == 2
    assert state_of(site.app).durable.session.writer.flush(BOUND)


def test_purge(site: Site, flask: Callable[..., Result]) -> None:
    """Ended items are forgotten, after a question, or only those of a status."""
    item_id = said(flask("run", "double", "1", "--json"))["id"]
    said(flask("run", "double", "2", "--json"))
    flask("cancel", item_id)
    assert flask("purge").exit_code == 1
    assert said(flask("purge", "--yes", "--json", "--status", "failed")) == {"purged": 0}
    assert said(flask("purge", "--yes", "--json")) == {"purged": 1}
    assert said(flask("stats", "--json"))["queued"] == 1
