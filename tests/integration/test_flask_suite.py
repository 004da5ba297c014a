"""Flask's own tests, with a Background on every app: a guest changes nothing for its host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .servers import ROOT

# Flask's source with its tests, and a pytest that they were written for: ``make test`` fetches both.
SUITE = Path(sys.prefix) / "flask-suite"
PLUGIN = """
import flask
from flask_background import Background

make = flask.Flask.__init__

def make_with_background(self, *args, **kwargs):
    make(self, *args, **kwargs)
    Background(self)

flask.Flask.__init__ = make_with_background
"""


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with Flask's tests, and beside it the plugin."""
    (archive,) = SUITE.glob("flask-*.tar.gz")
    folder = tmp_path_factory.mktemp("flask")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    (folder / "everywhere.py").write_text(PLUGIN)
    (found,) = folder.glob("flask-*")
    return found


def run(tests: Path, *options: str) -> set[str]:
    """Run Flask's tests; returns the names of those that failed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *options, "tests"],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SUITE / "pytest", tests.parent, ROOT)))},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert re.search(r"\b4\d\d passed", done.stdout), done.stdout + done.stderr
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.M))


def test_flask_suite(tests: Path) -> None:
    """Every test that passes without a Background passes with one on every app."""
    assert run(tests, "-p", "everywhere") - run(tests) == set()
