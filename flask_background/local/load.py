"""The load of this process: what its executors and its memory hold, as data for other processes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from flask_background.core.stop_tally import is_kept

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_background.core.executor_settings import ExecutorSettings
    from flask_background.local.backend import LocalBackend


def load_of(local: LocalBackend, settings: Mapping[str, ExecutorSettings]) -> dict[str, Any]:
    """Return the load as JSON data. ``settings``: those of the executors.

    "executors" counts all items that are here. "queued", "running", "tasks" and "oldest" (the enqueue time of
    the item that has waited longest) are those of the items that no journal has.
    """
    queued, running = Counter[str](), Counter[str]()
    executors, oldest = [], None
    for name, executor in local.executors.items():
        waiting, at_work = list(executor.queued.values()), list(executor.running.values())
        executors.append([name, settings[name].kind, settings[name].capacity, len(waiting), len(at_work)])
        running.update(item.task_name for item in at_work if not is_kept(item))
        for item in waiting:
            if not is_kept(item):
                queued[item.task_name] += 1
                if not local.later.has(item) and (oldest is None or item._enqueued < oldest):
                    oldest = item._enqueued
    return {
        "phase": local.ledger.phase.value,
        "executors": executors,
        "queued": queued.total(),
        "running": running.total(),
        "oldest": oldest,
        "tasks": {name: [queued[name], running[name]] for name in queued.keys() | running.keys()},
    }
