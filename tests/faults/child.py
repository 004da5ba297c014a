"""The program that is traced, starved and killed: it drives a journal, and records what it was promised.

Its arguments are MODULE:CLASS MODE FOLDER RECORD OPTIONS. Of folders and records there may be several,
with ":" between them; they take turns. The class is a `Subject`; all that a journal is asked for is in
its few methods.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from .record import Record

#: {"subject": {...}, "mode": {...}, "takes": seconds of a run, "who": number of the process in the record}.
Options = dict[str, Any]


class EnqueueError(Exception):
    """The journal has said that it can't take the item, and that it did not."""


class Broken(Exception):
    """The journal that a crash left behind is not sound."""


class Subject(Protocol):
    """A journal in a folder, seen from one process, which calls ``run(item)`` for each item.

    ``done(item)`` is called when its outcome is on record.
    """

    def __init__(
        self, folder: Path, run: Callable[[str], None], done: Callable[[str], None], **options: Any
    ) -> None: ...

    def enqueue(self, item: str) -> list[str]:
        """Take an item on; returns the facts that are promised. Raises EnqueueError."""
        ...

    def work(self, stop: threading.Event, idle: bool) -> None:
        """Run items until stop is set; if ``idle``, until there are none, or it takes too long."""
        ...

    def close(self) -> None:
        """End in good order."""
        ...

    @classmethod
    def look(cls, folder: Path) -> set[str]:
        """The facts that a folder holds, read with nothing but SQLite; raises Broken.

        The name of each item is one; and with "=" and its status, what became of it.
        """
        ...


def cycle(
    subject: Subject, record: Record, *, items: int = 3, producers: int = 1, apart: bool = False
) -> None:
    """Enqueue items, one by one in each of the threads that produce them, then run them all.

    ``apart``: run each before the next one is enqueued, so that nothing is written after the last one.
    """

    def enqueue(index: int) -> None:
        item = f"i{index}"
        begun = time.monotonic()
        try:
            facts = subject.enqueue(item)
        except EnqueueError:
            record.mark("nack", item)
        else:
            for fact in facts:
                record.mark("ack", fact)
        record.mark("took", f"{time.monotonic() - begun:.3f}")

    if producers == 1:  # in this thread: strace counts the calls of each thread by themselves
        for index in range(items):
            enqueue(index)
            if apart:
                work(subject, record)
    else:
        with ThreadPoolExecutor(producers) as pool:
            assert list(pool.map(enqueue, range(items)))
    work(subject, record)


def work(subject: Subject, record: Record) -> None:
    """Run what is there, and end."""
    subject.work(threading.Event(), idle=True)


def storm(subject: Subject, record: Record, *, every: float = 0.01) -> None:
    """Enqueue now and then, and run what comes, until TERM."""
    stop, enough = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: enough.set())
    record.mark("ready", "-")

    def enqueue() -> None:
        for index in count():
            if stop.is_set() or enough.wait(every):
                return
            item = f"{record.who}-{index}"
            try:
                subject.enqueue(item)
            except EnqueueError:
                record.mark("nack", item)
            else:
                record.mark("ack", item)

    producer = threading.Thread(target=enqueue)
    producer.start()
    subject.work(stop, idle=False)
    producer.join()


def program(
    subject: type[Subject], mode: str, folder: Path | str, record: Path | str, options: Options | None = None
) -> list[str]:
    """The command line of such a child, without Python itself."""
    where = f"{subject.__module__}:{subject.__qualname__}"
    return [
        "-c",
        "from tests.faults.child import main; main()",
        where,
        mode,
        str(folder),
        str(record),
        json.dumps(options or {}),
    ]


def main() -> None:
    """Do what the command line says."""
    where, mode, folder, log, options = sys.argv[1:]
    given: Options = json.loads(options)
    module, _, name = where.partition(":")
    for each, its_log in zip(folder.split(":"), log.split(":"), strict=True):
        record = Record(Path(its_log), given.get("who"))

        def run(item: str, record: Record = record) -> None:
            record.mark("begin", item)
            time.sleep(given.get("takes", 0.0))
            record.mark("end", item)

        def done(item: str, record: Record = record) -> None:
            record.mark("done", item)

        kind = getattr(importlib.import_module(module), name)
        subject: Subject = kind(Path(each), run, done, **given.get("subject", {}))
        {"cycle": cycle, "work": work, "storm": storm}[mode](subject, record, **given.get("mode", {}))
        subject.close()
        record.close()
