"""The writers of this process: one for a journal, as the lock that gives them the turn is a process's."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

from flask_background.concurrency import native
from flask_background.durable.journal.writer import Writer

# As long as anybody has them; a second one beside one that is still used would not wait for its turn.
_writers: WeakValueDictionary[Path, Writer] = WeakValueDictionary()
_inherited: list[list[Writer]] = []
_lock = native.new_lock()


def writer_at(folder: Path, *, power: bool) -> Writer:
    """The writer of this process for a journal."""
    folder = folder.resolve()
    with _lock:
        writer = _writers.get(folder)
        if writer is None:
            writer = _writers[folder] = Writer(folder, power=power)
        return writer


def _after_fork() -> None:
    global _lock, _writers
    _lock = native.new_lock()
    # Neither used nor closed, which would touch the parent's files: kept for ever.
    _inherited.append(list(_writers.values()))
    _writers = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
