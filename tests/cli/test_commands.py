"""The commands of ``flask background``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from flask_background import Background, Status, current_item
from flask_background.cli.commands import background as group

from ..helpers import BOUND, Site
from .conftest import one_line, said

SHOP = """
import sys
from flask import Flask
app = Flask("shop")
plain = Flask("plain")
@app.cli.command("loaded")
def loaded():
    late = ("sqlite3", *(f"flask_background.{n}" for n in ("monitoring", "cli.commands", "cli.items")))
    print([name for name in late if name in sys.modules])
from flask_background import Background
background = Background(app)
"""


@pytest.mark.process
def test_found_by_flask(tmp_path: Path) -> None:
    """An app with a Background has the commands, another app has not; they are loaded when used."""
    (tmp_path / "shop.py").write_text(SHOP)

    def flask(name: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", "--app", f"shop:{name}", *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND)

    assert "  background " in flask("app", "--help").stdout
    assert "  celery-worker " in flask("app", "background", "--help").stdout
    assert flask("app", "background", "list").returncode == 0
    assert flask("app", "loaded").stdout == "[]\n"
    assert "background" not in flask("plain", "--help").stdout
    assert "No such command 'background'" in flask("plain", "background", "list").stderr


def test_command_of_the_apps_own() -> None:
    """A command that the app has under this name stays."""
    app = Flask("shop")
    app.cli.command("background")(lambda: None)
    own = app.cli.commands["background"]
    Background(app)
    assert app.cli.commands["background"] is own


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
        (("cancel", "abc"), 1, "item abc: it is not known"),
        (("retry", "abc"), 1, "item abc: it is not known"),
        (("purge", "abc"), 1, "item abc: it is not known"),
        (("cancel",), 2, "give either IDs, or options that select items"),
        (("retry", "abc", "--task", "mail.*"), 2, "give either IDs, or options that select items"),
        (("purge", "--older-than", "a week"), 2, "'a week' is no length of time"),
        (("list", "--since", "99999999999d"), 2, "is no time"),
        (("list", "--since", "yesterday"), 2, "'yesterday' is no time"),
        (("list", "--after", "x"), 2, "'x' is no cursor"),
        (("stats", "--period", "1y"), 2, "'1y' is no length of time"),
        (("pause",), 2, "give either the name of a task, or --executor NAME"),
        (("pause", "shop.double", "--executor", "thread"), 2, "give either the name of a task"),
        (("pause", "nothing"), 2, "there is no task named 'nothing'"),
        (("resume", "--executor", "gpu"), 2, "there is no executor named 'gpu'"),
        (("run-now", "shop.double"), 2, "there is no periodic task named 'shop.double'"),
        (("list", "--status", "lost"), 2, "lost"),
        (
            ("worker", "--executor", "gpu"),
            2,
            "'gpu' is not an executor of this app; its executors are asyncio, thread",
        ),
    ],
)
def test_errors(flask: Callable[..., Result], args: tuple[str, ...], code: int, words: str) -> None:
    """An error is one line; the exit status is 1 for a failure and 2 for a wrong command line."""
    result = flask(*args)
    assert result.exit_code == code
    assert words in one_line(result)
    assert "Traceback" not in result.output


def test_journal_that_cannot_be_opened(site: Site, flask: Callable[..., Result]) -> None:
    """A file in the place of the journal's folder is an error of one line, too."""
    site.app.config["BACKGROUND_JOURNAL"].write_text("")
    result = flask("list")
    assert result.exit_code == 1
    assert "journal" in one_line(result)


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\ud800 \u2713\nforged line"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_hostile_texts(
    site: Site, flask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """An item's texts reach no terminal as control characters, and every terminal in its encoding."""

    def fail() -> None:
        current_item.report_progress(1, 2, HOSTILE)
        raise ValueError(HOSTILE)

    # Half of a character in a captured log line would end the process that several tests share.
    monkeypatch.setattr(site.app.logger.getChild("background"), "disabled", True)
    site.background.task(durable=True, name="shop.hostile")(fail)
    assert flask("run", "hostile", "--wait").exit_code == 1
    (item,) = said(flask("list", "--json"))["items"]
    item_id = item["id"]
    runner = site.app.test_cli_runner(charset=encoding)
    for args in (["show", item_id], ["show", item_id, "--json"], ["list"]):
        result = runner.invoke(group, args)
        assert result.exception is None
        shown = result.stdout_bytes
        assert not set(shown) & {0x1B, 0x07}
        assert not [line for line in shown.decode(encoding).splitlines() if line.startswith("forged")]
    assert "\\x1b[2J" in runner.invoke(group, ["show", item_id]).output


def test_text_that_cannot_be_encoded(flask: Callable[..., Result]) -> None:
    """An option or a name with half of a surrogate pair is refused by name."""
    commands = ["list", "--task"], ["show"], ["retry"], ["run"], ["list", "--text"], ["pause"]
    for args in ([*command, "\udcff"] for command in commands):
        result = flask(*args)
        assert result.exit_code == 2
        assert "is no well-formed text" in result.output


def test_deeply_nested_argument(site: Site, flask: Callable[..., Result]) -> None:
    """An argument that is not JSON is a string."""
    assert "hello" in flask("run", "greet", "[" * 100_000).output


def test_run_that_fails(site: Site, flask: Callable[..., Result], caplog: pytest.LogCaptureFixture) -> None:
    """The log has the traceback of a failed item, and the command's error is one line."""

    def fail(text: str) -> None:
        raise ValueError(text)

    site.background.task(name="shop.fails")(fail)
    result = flask("run", "fails", "bad \x1b[2J file")
    assert result.exit_code == 1
    assert result.stderr.count("Traceback") + caplog.text.count("Traceback") == 1
    assert result.stderr.splitlines()[-1].endswith("failed: ValueError: bad \\x1b[2J file")


def test_result_that_has_no_repr(site: Site, flask: Callable[..., Result]) -> None:
    """A result is printed as far as it can be."""

    class Shy:
        def __repr__(self) -> str:
            raise ValueError

    site.background.task(name="shop.shy")(lambda: Shy())
    assert "Shy, whose repr raises" in flask("run", "shy").output
