"""A child process from the outside: started, asked, listened to, killed."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

from flask_background.concurrency import native
from flask_background.errors import ItemCrashedError
from flask_background.executors.processes.messages import Message, Setup, Started
from flask_background.executors.processes.pipes import Pipes

# How long a child may take to load the app, and to end when it is told to, in seconds.
_STARTED_WITHIN = 60.0
_ENDED_WITHIN = 1.0
# What poll can wait at once, which is not for ever, in seconds.
_LONG = 1e6
# How often it is looked whether it has, where that has to be asked.
_LOOK = 0.005
# The exit status that somebody else has been told.
_UNKNOWN = 256
#: What ends a process politely, or comes from the terminal: the parent alone decides when its children end.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class Dead(Exception):
    """The child has ended; ``status`` is its exit code, or minus the number of the signal that ended it."""

    def __init__(self, pid: int, status: int) -> None:
        super().__init__(pid, status)
        self.pid = pid
        self.status = status

    def __str__(self) -> str:
        if self.status == _UNKNOWN:
            return f"child process {self.pid} ended, nobody knows how"
        if self.status >= 0:
            return f"child process {self.pid} ended with exit status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        hint = " (by the system for want of memory, perhaps)" if name == "SIGKILL" else ""
        return f"child process {self.pid} was ended by {name}{hint}"


class ChildProcess:
    """One child process and its channel: two pipes, and nothing that it shares with another child.

    Belongs to the thread that starts it, and ends with that at the latest. Others may ``ring`` and ``kill``.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lock = native.new_lock()  # others must not ring or kill what has been closed or reaped
        self._status: int | None = None
        #: Whether it has died before it had read all that it was told.
        self.died_unread = False
        self._poll = native.new_poll()
        theirs_in, ours_out, ours_in, theirs_out, self._heard, self._bell = _open_pipes(3)
        # It may be stuck in whatever an item has left, and must not hold up who wants to kill it.
        self._pipes = Pipes(ours_in, ours_out, blocking=False)
        self._death = -1
        for end in (self._heard, self._bell):
            os.set_blocking(end, False)
        # It inherits the mask: what is meant for its parent does not end it before it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from flask_background.child_main import main;"
            f" main({theirs_in}, {theirs_out}, {os.getpid()})"
        )
        try:
            self.pid = native.start_program([native.interpreter(), "-c", code], (theirs_in, theirs_out))
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        with suppress(OSError, AttributeError):
            # What an item has started may hold the pipe open when the child has died.
            self._death = os.pidfd_open(self.pid)
        for end in (ours_in, self._heard, self._death):
            if end != -1:
                self._poll.register(end, select.POLLIN)

    def make_ready(self) -> None:
        """Wait until it has loaded the app. Raises ItemCrashedError if it does not."""
        end = time.monotonic() + _STARTED_WITHIN
        try:
            started = None
            try:
                self.send(self._setup)
            except OSError:
                raise Dead(self.pid, self.end()) from None
            while started is None and (left := end - time.monotonic()) > 0:
                started = self.receive(left)
        except Dead as error:
            raise ItemCrashedError(
                f"{error} before it had loaded the app {self._setup.location!r}{self._memory_hint()}"
            ) from None
        if not isinstance(started, Started):
            raise ItemCrashedError(
                f"a child process did not load the app {self._setup.location!r} within"
                f" {_STARTED_WITHIN:.0f} s: does a module start a server when it is imported?"
            )
        if started.trouble is not None:
            raise ItemCrashedError(
                f"a child process could not load the app {self._setup.location!r}. BACKGROUND_APP says where"
                f" it is, and each process has to be able to load it{self._memory_hint()}:"
                f"\n\n{started.trouble}"
            )

    def _memory_hint(self) -> str:
        memory = self._setup.max_memory
        return "" if memory is None else f" within its max_memory of {memory} MiB"

    def send(self, message: Message) -> None:
        """Tell it something. Raises OSError if it has ended."""
        self._pipes.send(message)

    def receive(self, seconds: float | None) -> Message | None:
        """What it says next; None after so many seconds, when the bell rings, or if there is more to come.

        Raises Dead.
        """
        pipes = self._pipes
        if (message := pipes.take()) is not None:
            return message
        if is_sending := pipes.is_sending:
            self._poll.register(pipes.outbound, select.POLLOUT)
        ready = dict(self._poll.poll(None if seconds is None else min(max(0.0, seconds), _LONG) * 1000.0))
        if is_sending:
            self._poll.unregister(pipes.outbound)
        if self._heard in ready:
            os.read(self._heard, 512)
        try:
            if pipes.outbound in ready:
                pipes.send_more()
            if pipes.inbound in ready:
                pipes.read()
                return pipes.take()
        except (EOFError, OSError):
            raise self._dead() from None
        if self._death in ready:
            raise self._dead()
        return None

    def _dead(self) -> Dead:
        self.died_unread = self._pipes.is_unread
        return Dead(self.pid, self.end())

    def is_alive(self) -> bool:
        """Whether it runs, as far as is known."""
        with self._lock:
            return self._look() is None

    def ring(self) -> None:
        """Have ``receive`` return. On any thread."""
        with self._lock:
            if self._bell != -1:
                try:
                    os.write(self._bell, b"!")
                except BlockingIOError:  # it has rung very often
                    pass

    def kill(self) -> None:
        """End it and what it has started, however busy it is. On any thread."""
        with self._lock:
            if self._look() is None:
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                except ProcessLookupError:  # it has no group of its own yet
                    os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Let it end: it does when its channel is closed. Returns its exit status."""
        self._close()
        for last in (False, True):
            end = time.monotonic() + _ENDED_WITHIN
            while self.is_alive() and (last or time.monotonic() < end):
                native.sleep(_LOOK)
            self.kill()
        assert self._status is not None
        return self._status

    def _look(self) -> int | None:
        if self._status is None:
            try:
                if native.has_ended(self.pid):
                    with suppress(OSError):  # there is hardly ever something left of its group
                        os.killpg(self.pid, signal.SIGTERM)
                    self._status = native.exit_code_of(self.pid)
            except ChildProcessError:
                self._status = _UNKNOWN
        return self._status

    def _close(self) -> None:
        self._pipes.close()
        with self._lock:
            if self._bell != -1:
                os.close(self._bell)
                os.close(self._heard)
            if self._death != -1:
                os.close(self._death)
            self._bell = self._death = -1


def _open_pipes(count: int) -> list[int]:
    """The ends of so many pipes, or none at all."""
    ends: list[int] = []
    try:
        for _ in range(count):
            ends += os.pipe()
    except OSError:
        for end in ends:
            os.close(end)
        raise
    return ends
