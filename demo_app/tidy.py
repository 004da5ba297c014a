"""The removal of what visitors have left: once for all workers, by whichever is up at the time."""

from __future__ import annotations

import time

from flask import current_app

from . import config, files
from .extensions import background

FOLDERS = ("pictures", "names", "records", "recent", "outbox")


@background.periodic(seconds=config.DEMO_PRUNE_EVERY)
@background.task(durable=True)
def prune() -> int:
    """Delete what visitors left too long ago; return how many files it was."""
    oldest = time.time() - current_app.config["DEMO_KEEP"]
    removed = 0
    for name in FOLDERS:
        for path in files.folder(name).iterdir():
            if files.written_at(path) < oldest:
                files.remove(path)
                removed += 1
    return removed
