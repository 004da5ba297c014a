"""An app with a journal, and its commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from flask_background.cli import background as group

from ..helpers import Site


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
    """Runs a command as ``flask background`` does: each has the app for itself, as a process has."""

    def call(*args: str) -> Result:
        app = Flask(site.app.name)
        app.config.update(site.app.config)
        site.background.init_app(app)
        result: Result = app.test_cli_runner().invoke(group, args)
        with app.app_context():
            site.background.stop(0)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


def said(result: Result) -> Any:
    """The JSON that a command printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def one_line(result: Result) -> str:
    """The error of a command that failed."""
    *_, line = result.stderr.strip().splitlines()
    return line
