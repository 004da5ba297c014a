"""The thread that runs the callbacks of what was written, one after the other, in the order of the writes.

The writer's own thread runs none of them, for a callback may want something written, and wait for that.
"""

from __future__ import annotations

import traceback

from flask_background.concurrency import native
from flask_background.durable.journal.group_commit import Write


class Callbacks:
    """Runs callbacks on a thread that exists as long as the writer wants it."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._writes: native.SimpleQueue[Write | None] = native.SimpleQueue()
        self._has_thread = False

    def put(self, write: Write) -> None:
        """Have ``write.then`` called; ``have_thread`` has to be called after this."""
        self._writes.put(write)

    def have_thread(self) -> bool:
        """Start the thread if there is a callback to run; False if the process can have no more threads."""
        with self._lock:
            if not self._has_thread and not self._writes.empty():
                try:
                    native.start_thread(self._run, "background-journal-callbacks")
                except RuntimeError:
                    return False
                self._has_thread = True
        return True

    def end_thread(self) -> None:
        """Let the thread end once it has run all callbacks."""
        with self._lock:
            if self._has_thread:
                self._writes.put(None)

    def _run(self) -> None:
        while True:
            write = self._writes.get()
            if write is not None:
                _call_back(write)
                write = None  # an idle thread would keep it
                continue
            with self._lock:
                if self._writes.empty():  # else the writer has begun again
                    self._has_thread = False
                    return


def _call_back(write: Write) -> None:
    try:
        if write.error is not None:
            raise write.error
        if write.then is not None:
            write.then(write.value)
    except BaseException:  # the callbacks that follow have to run, whatever this one raised
        traceback.print_exc()
