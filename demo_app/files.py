"""Files that several workers read and write: each is there as a whole, or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import current_app


def folder(name: str) -> Path:
    """A folder of the demo's own, which is made if it is not there."""
    path = Path(current_app.instance_path, name)
    path.mkdir(exist_ok=True)
    return path


def write_json(path: Path, value: Any, only_new: bool = False) -> None:
    """Write a file. Readers see it as it was or as it is, never half of it.

    ``only_new``: if there is one already, that stays.
    """
    draft = path.with_suffix(f".{secrets.token_hex(4)}.part")
    draft.write_text(json.dumps(value))
    if only_new:
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    else:
        draft.replace(path)


def read_json(path: Path) -> Any:
    """Read a file; None if it is not there, or not any more."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def written_at(path: Path) -> float:
    """When something was written; long ago if another worker has just deleted it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Files in the order of their age."""
    return sorted(paths, key=written_at, reverse=True)


def remove(path: Path) -> None:
    """Delete a file or a folder, which may be gone already."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
