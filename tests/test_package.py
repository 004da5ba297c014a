"""The wheel and the source distribution: their files, and the README's app with the wheel alone installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import flask_background

from .browser import DESKTOP, Browser
from .helpers import ROOT
from .test_readme import serve_readme

pytestmark = pytest.mark.server

# Made by tools in a checkout, and in no commit.
MADE = (
    ".git",
    ".venv*",
    "build",
    "dist",
    "instance",
    "*.egg-info",
    "__pycache__",
    "*.py[co]",
    ".*_cache",
    ".hypothesis",
)


def run(*command: Path | str, cwd: Path) -> str:
    """The output of a command; if the command fails, the test fails with the output."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=outside,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout, without what tools have made there."""
    copy = tmp_path_factory.mktemp("package") / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*MADE))
    return copy


@pytest.fixture(scope="module")
def dist(checkout: Path) -> Path:
    """The folder with both distributions."""
    run(sys.executable, "-m", "build", cwd=checkout)
    return checkout / "dist"


def only(folder: Path, pattern: str) -> Path:
    """The one file of a folder that a pattern fits."""
    (path,) = folder.glob(pattern)
    return path


def metadata(wheel: Path) -> Message:
    """The metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_indexes_take_both(dist: Path) -> None:
    """The checks that a package index makes find nothing to complain of."""
    wheel, sdist = only(dist, "*.whl"), only(dist, "*.tar.gz")
    said = run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=dist)
    assert said.count("PASSED") == 2


def test_sdist_is_the_checkout(checkout: Path, dist: Path) -> None:
    """Package, tests, docs, demo and tools can all be worked on from the source distribution."""
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    there = {
        path.relative_to(checkout).as_posix()
        for path in checkout.rglob("*")
        if path.is_file() and not path.is_relative_to(dist) and ".egg-info" not in str(path)
    }
    assert there - held == set()


def test_wheel_is_the_package(dist: Path) -> None:
    """The wheel installs the package, its migrations, the mark that it is typed, and the pytest plugin."""
    package = Path(flask_background.__file__).parent
    files = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(only(dist, "*.whl")) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {*files, "_flask_background_pytest.py"}


def test_metadata(dist: Path) -> None:
    """The wheel says what it is, which licence it has, and what it needs: Flask only."""
    says = metadata(only(dist, "*.whl"))
    assert says["Version"] == flask_background.__version__
    assert says["License-Expression"] == "BSD-3-Clause"
    assert says["License-File"] == "LICENSE.txt"
    assert says["Author"]
    assert says["Keywords"]
    needs = [line for line in says.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needs == ["Flask>=3.1"]
    classifiers = says.get_all("Classifier", [])
    assert (
        f"Programming Language :: Python :: {sys.version_info.major}.{sys.version_info.minor}" in classifiers
    )


def test_wheel_runs_the_readme(dist: Path, tmp_path: Path, browser: Browser) -> None:
    """With the wheel in an empty environment, a visitor uploads a file and sees its item end."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", f"{only(dist, '*.whl')}[gunicorn]", cwd=tmp_path)
    folder, photo = tmp_path / "empty", tmp_path / "photo.txt"
    folder.mkdir()
    photo.write_text("one two three")
    with serve_readme(folder, python=python, PYTHONPATH="") as program:
        browser.look(DESKTOP)
        browser.open(program.url)
        browser.one("input[type=file]").send_keys(str(photo))
        browser.one("button").click()
        browser.sees("Your photo: running")
        browser.sees(hashlib.sha256(photo.read_bytes()).hexdigest())
