"""The fields of ``--json``: each documented field is printed, and each printed field is documented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from ..helpers import ROOT, Site
from .conftest import said

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
_CODE = re.compile(r"`([\w-]+)`")


def documented(heading: str) -> set[str]:
    """The fields in the first column of the table under a heading."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return {name for row in rows for name in _CODE.findall(row)}


def documented_of_command(name: str) -> set[str]:
    """The fields that the table of commands says a command prints."""
    (row,) = [row for row in re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE, re.M) if f"`{name}`" in row[0]]
    return set(_CODE.findall(row[1]))


def objects(value: Any, kind: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """All objects in a value, with the name of the field that has them."""
    if isinstance(value, dict):
        yield kind, value
        for name, part in value.items():
            yield from objects(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from objects(part, kind)


#: What the objects in a field are.
KINDS = {
    "items": "An item",
    "running": "An item",
    "failed": "An item",
    "last_failure": "An item",
    "last_item": "An item",
    "tasks": "A task",
    "schedules": "A schedule",
    "processes": "A process",
    "pauses": "A pause",
    "paused": "A pause",
    "counts": "Counts",
}
DETAILS = {"traceback", "state", "runs"}


@pytest.fixture
def day(site: Site, flask: Callable[..., Result]) -> str:
    """A day of an app: items, a schedule, a failure and a pause. Returns the id of the failed item."""
    site.background.periodic(seconds=3600, name="shop.tidy")(lambda: None)
    item_id = str(said(flask("run", "fail", "--json"))["id"])
    assert flask("worker", "--burst").exit_code == 0
    assert flask("pause", "shop.double").exit_code == 0
    return item_id


def test_printed_fields(flask: Callable[..., Result], day: str) -> None:
    """Lists, tasks, schedules, pauses and counts have exactly the documented fields; processes: see top."""
    seen = set()
    for name in ("list", "schedules", "processes", "stats", "top"):
        found = said(flask(name, "--json"))
        assert found.keys() == documented_of_command(name), name
        for field, value in objects(found):
            if field in KINDS and not (field == "tasks" and "name" not in value):
                kind = KINDS[field]
                seen.add(kind)
                assert value.keys() == documented(kind) - (DETAILS if kind == "An item" else set()), field
    assert seen == {*KINDS.values()} - {"A process"}


def test_fields_of_one_item(flask: Callable[..., Result], day: str) -> None:
    """``show`` has all fields of an item and of its runs."""
    found = said(flask("show", day, "--json"))
    assert found.keys() == documented("An item")
    assert all(run.keys() == documented("A run") for run in found["runs"])
    assert found["runs"]


def test_fields_of_actions(flask: Callable[..., Result], day: str) -> None:
    """Actions print what the page says."""
    printed = {
        **said(flask("retry", day, "--json")),
        **said(flask("cancel", day, "--json")),
        **said(flask("purge", day, "--json")),
    }
    assert printed.keys() == documented_of_command("cancel")
    assert said(flask("resume", "shop.double", "--json")).keys() == {"kind", "name", "resumed"}
    assert documented_of_command("pause") == {"kind", "name", "paused", "resumed"}
    assert said(flask("run-now", "shop.tidy", "--json")).keys() == documented_of_command("run-now")
    assert said(flask("run", "greet", "ada", "--json")).keys() == documented_of_command("run")
