"""``flask run`` is known in the process that will serve, and no other command is."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import AppGroup, FlaskGroup, ScriptInfo, pass_script_info

from flask_background.cli.flask_run import in_flask_run

#: Runs a command line, and returns what the app's factory saw.
Run = Callable[..., list[bool]]


@pytest.fixture
def run() -> Run:
    """A FlaskGroup whose commands load the app, and end."""
    seen: list[bool] = []

    def create_app() -> Flask:
        seen.append(in_flask_run())
        return Flask("shop")

    @pass_script_info
    def load(info: ScriptInfo, **options: object) -> None:
        info.load_app()

    def command(name: str) -> click.Command:
        option = click.Option(["--reload/--no-reload"], default=None)
        return click.Command(name, callback=load, params=[option])

    group = FlaskGroup(create_app=create_app)
    group.add_command(command("run"))  # in place of Flask's, which would serve
    group.add_command(command("other"))
    database = AppGroup("db")
    database.add_command(command("run"))
    group.add_command(database)

    def run(*arguments: str, **env: str) -> list[bool]:
        seen.clear()
        result = CliRunner().invoke(group, arguments, env=env, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return seen

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], True),
        (["run", "--reload"], False),  # the parent of the process that serves
        (["--debug", "run"], False),
        (["--debug", "run", "--no-reload"], True),
        (["other"], False),
        (["db", "run"], False),
    ],
)
def test_command(run: Run, arguments: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has to be Flask's, and to serve in this process."""
    monkeypatch.setenv("FLASK_DEBUG", "0")  # the option changes it for good
    assert run(*arguments) == [expected]


def test_child_of_the_reloader(run: Run) -> None:
    """The reloader's child serves."""
    assert run("run", "--reload", WERKZEUG_RUN_MAIN="true") == [True]


def test_no_command() -> None:
    """A process without a command line of Flask's is another one."""
    assert not in_flask_run()
