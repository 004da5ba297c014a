"""The writers of this process: one per journal, because a process as a whole holds the write lock."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

from flask_background.concurrency import native
from flask_background.durable.journal.writer import Writer

# Kept while code refers to them. A second writer for the same journal would not wait for the first one.
_writers: WeakValueDictionary[Path, Writer] = WeakValueDictionary()
_inherited: list[list[Writer]] = []
_lock = native.new_lock()


def writer_at(folder: Path, *, power: bool) -> Writer:
    """Return the writer of this process for the journal in this folder."""
    folder = folder.resolve()
    with _lock:
        writer = _writers.get(folder)
        if writer is None:
            writer = _writers[folder] = Writer(folder, power=power)
        return writer


# How long a fork waits for a transaction of another thread to end, in seconds.
_FORK_PATIENCE = 5.0
_paused: list[Writer] = []


def _before_fork() -> None:
    # SQLite keeps its locks on a file in the process's memory. A child forked in a transaction would believe
    # that it holds them, too, and would write while all other processes wait.
    _paused.extend(writer for writer in list(_writers.values()) if writer.pause(_FORK_PATIENCE))


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().go_on()


def _after_fork() -> None:
    global _lock, _writers
    _paused.clear()
    _lock = native.new_lock()
    # The inherited writers are neither used nor closed, which would touch the parent's files, but kept for
    # ever.
    _inherited.append(list(_writers.values()))
    _writers = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork
    )
