"""The thread that runs the callbacks of written steps, one after the other, in the order of the writes.

The writer's own thread runs none of them, because a callback may write a step, and wait for it.
"""

from __future__ import annotations

from flask_background.concurrency import native
from flask_background.concurrency.callbacks import report
from flask_background.durable.journal.group_commit import Write


class Callbacks:
    """Runs callbacks on a thread that lives until the writer ends it."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._writes: native.SimpleQueue[Write | None] = native.SimpleQueue()
        self._has_thread = False

    def put(self, write: Write) -> None:
        """Have ``write.then`` called; ``have_thread`` has to be called after this."""
        self._writes.put(write)

    def have_thread(self) -> bool:
        """Start the thread if there is a callback to run; return False if no thread can be started."""
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
                write = None  # otherwise an idle thread would keep the write alive
                continue
            with self._lock:
                if self._writes.empty():  # otherwise the writer has begun again
                    self._has_thread = False
                    return


def _call_back(write: Write) -> None:
    try:
        if write.error is not None:
            raise write.error
        if write.then is not None:
            write.then(write.value)
    except BaseException as error:  # the callbacks that follow have to run, whatever this one raised
        report(error)
