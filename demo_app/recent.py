"""The items that a page has started lately, with the name that the page gives to each."""

from __future__ import annotations

from typing import Any

from flask_background import WorkItem

from . import files
from .items import Shown
from .status import look_up

KEPT = 8


def add(page: str, item: WorkItem[Any], name: str) -> None:
    """Remember an item of a page, for whichever worker shows it."""
    files.write_json(files.folder("recent") / f"{page}-{item.id}.json", name)


def items(page: str) -> list[Shown]:
    """The items of a page, newest first; the names of older ones that have ended are deleted."""
    shown: list[Shown] = []
    for path in files.newest_first(files.folder("recent").glob(f"{page}-*.json")):
        item = look_up(path.stem.removeprefix(f"{page}-"))
        if item["status"] == "unknown" or (item["final"] and len(shown) >= KEPT):
            files.remove(path)
        elif name := files.read_json(path):
            shown.append(item | {"name": name})
    return shown
