"""``docs/testing.md``: its suite runs as printed, and its table counts the sample suites."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from flask_background import testing

from ..helpers import ROOT
from .pages import DOCS, blocks, save

pytestmark = pytest.mark.process

PAGE = DOCS / "testing.md"
SAMPLES = ROOT / "tests" / "samples"


def test_suite(pytester: pytest.Pytester) -> None:
    """Each file of the page is saved, and pytest passes every test."""
    files = blocks(PAGE, "python")
    for block in files:
        save(pytester.path, block)
    tests = sum(block.text.count("\ndef test_") for block in files)
    result = pytester.run(sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=tests)
    assert tests >= 12


def lines(*paths: Path) -> int:
    """The lines of files that are not empty."""
    return sum(bool(line.strip()) for path in paths for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Flask-Background", "with_background"),
        ("Flask-Executor", "with_flask_executor"),
        ("RQ", "with_rq"),
        ("Celery", "with_celery"),
    ],
)
def test_table(name: str, folder: str) -> None:
    """The table has the numbers of tests and lines that the suites have."""
    (row,) = re.findall(
        rf"^\| {name}[^|]*\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(), flags=re.M
    )
    suite, harness = SAMPLES / folder / "test_signup.py", SAMPLES / folder / "conftest.py"
    tests, count = suite.read_text().count("\ndef test_"), lines(suite, harness)
    assert [int(number) for number in row] == [tests, count, count // tests, lines(harness)]


def test_same_tests() -> None:
    """The suites of other libraries are parts of the same suite."""
    names = {
        folder.name: set(re.findall(r"^def (test_\w+)", (folder / "test_signup.py").read_text(), flags=re.M))
        for folder in SAMPLES.glob("with_*")
    }
    assert len(names) == 4
    for others in names.values():
        assert others <= names["with_background"]


def test_every_name() -> None:
    """Each public name is on the page of the interface, and what a test calls is in the guide."""
    interface, guide = (DOCS / "reference" / "api.md").read_text(), PAGE.read_text()
    for name in testing.__all__:
        assert re.search(rf"auto(function|class):: {name}\b", interface), name
        assert name in guide or name in ("RecordedItem", "RecordedItems", "stopping_apps"), name
