"""The records that long items write a few times a second, for the workers that do not run them.

The journal tells all of them how a durable item stands. Which process runs it and what its token says is
known in that process alone, and so is everything of an item in memory.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask_background import WorkItem

from . import files
from .items import Shown, describe

RECORDS_KEPT = 20
STALE_SECONDS = 10.0


def keep(item: WorkItem[Any]) -> None:
    """Write down how an item stands that runs in this process."""
    path = path_of(item.id)
    pids: list[int] = (files.read_json(path) or {}).get("pids", [])
    if pids[-1:] != [os.getpid()]:
        pids.append(os.getpid())
    token = {
        "cancelled": item.token.cancelled,
        "reason": item.token.reason and item.token.reason.value,
        "remaining": item.token.remaining,
    }
    files.write_json(path, describe(item) | {"pid": os.getpid(), "pids": pids, "token": token})


def expect(item: WorkItem[Any]) -> None:
    """Have an item on record that was just enqueued, unless it says something of itself already."""
    files.write_json(path_of(item.id), describe(item), only_new=True)


def read(item_id: str) -> Shown | None:
    """Return the last record of an item, or None."""
    path = path_of(item_id)
    record: Shown | None = files.read_json(path)
    if record is not None and not record["final"]:
        pid, age = record["pid"], time.time() - files.written_at(path)
        if age > STALE_SECONDS or (pid is not None and not is_alive(pid)):
            record |= {"status": "lost", "label": "Lost", "final": True}
            record["error"] = "Its process is gone, and the item with it: it was in memory only."
    return record


def latest() -> list[str]:
    """The ids of the items that were on record last; older records are deleted."""
    paths = files.newest_first(files.folder("records").glob("*.json"))
    for path in paths[RECORDS_KEPT:]:
        files.remove(path)
        files.remove(path.with_suffix(".end"))
    return [path.stem for path in paths[:RECORDS_KEPT]]


def ask_to_end(item_id: str) -> None:
    """Leave word for an item in another worker's memory that it should end."""
    path_of(item_id).with_suffix(".end").touch()


def is_asked_to_end(item_id: str) -> bool:
    """Return whether a worker has asked the item to end."""
    return path_of(item_id).with_suffix(".end").exists()


def path_of(item_id: str) -> Path:
    """Return the path of an item's record."""
    return files.folder("records") / f"{item_id}.json"


def is_alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True
