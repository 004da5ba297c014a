"""A child process, seen from the parent: started, sent to, received from, killed."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

from flask_background.concurrency import native, programs
from flask_background.errors import ItemCrashedError
from flask_background.executors.processes import where
from flask_background.executors.processes.messages import Message, Setup, Started
from flask_background.executors.processes.pipes import NoMessage, Pipes

# How long a child may take to load the app, and to end when it is told to, in seconds.
_STARTED_WITHIN = 60.0
_ENDED_WITHIN = 1.0
# The longest wait of poll, which takes no infinity, in seconds.
_LONG = 1e6
# How often a child is checked for its end on systems without pidfd_open, in seconds.
_LOOK = 0.005
# The exit status of a child that other code has reaped.
_UNKNOWN = 256
#: Signals that end a process politely, or come from the terminal: the parent alone decides when its children
#: end.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class Dead(Exception):
    """The child has ended; ``status`` is its exit code, or minus the number of its signal.

    ``where``: the stacks of its threads, if it has crashed and could write them.
    """

    def __init__(self, pid: int, status: int, where: str = "") -> None:
        super().__init__(pid, status)
        self.pid = pid
        self.status = status
        self.where = where

    def __str__(self) -> str:
        if self.status == _UNKNOWN:
            return f"child process {self.pid} ended with an unknown status"
        if self.status >= 0:
            return f"child process {self.pid} ended with exit status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        hint = " (perhaps by the system, for lack of memory)" if name == "SIGKILL" else ""
        return f"child process {self.pid} was ended by {name}{hint}"


class Garbled(Dead):
    """The child has written into its pipe what is no message, and was killed for that."""

    def __init__(self, pid: int, status: int, what: str) -> None:
        super().__init__(pid, status)
        self.what = what

    def __str__(self) -> str:
        return (
            f"child process {self.pid} has written {self.what} into the pipe to its parent, and was killed:"
            " does something write to a file descriptor that is not its own?"
        )


class ChildProcess:
    """One child process and its pipes, which it shares with no other child.

    A child belongs to the thread that starts it, and ends with that thread at the latest. Other threads may
    ``ring``, ``kill`` and ask where it is.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lock = native.new_lock()  # other threads must not ring or kill a child that is closed or reaped
        self._status: int | None = None
        #: Whether the child died before it had read all messages.
        self.died_unread = False
        self._poll = native.new_poll()
        ends = _open_pipes(4)
        theirs_in, ours_out, ours_in, theirs_out, self._heard, self._bell, self._where, theirs_where = ends
        # Not blocking: a child may be stuck in any code of an item, and must not hold up the thread that
        # wants to kill it.
        self._pipes = Pipes(ours_in, ours_out, is_parent=True)
        self._death = -1
        for end in (self._heard, self._bell, theirs_where):
            os.set_blocking(end, False)
        # The child inherits the mask, so that a signal for the parent does not end the child before it has
        # its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from flask_background.child_main import main;"
            f" main({theirs_in}, {theirs_out}, {theirs_where}, {os.getpid()})"
        )
        try:
            self.pid = programs.start_program(
                [programs.interpreter(), "-c", code], (theirs_in, theirs_out, theirs_where)
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
            os.close(theirs_where)
        with suppress(OSError, AttributeError):
            # The pipe's end is no sign of death, because a program that an item started may hold the pipe
            # open.
            self._death = os.pidfd_open(self.pid)
        for end in (ours_in, self._heard, self._death):
            if end != -1:
                self._poll.register(end, select.POLLIN)

    def make_ready(self) -> None:
        """Wait until the child has loaded the app. Raises ItemCrashedError if it cannot."""
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
                f" it is, and every process must be able to load it{self._memory_hint()}:"
                f"\n\n{started.trouble}"
            )

    def _memory_hint(self) -> str:
        memory = self._setup.max_memory
        return "" if memory is None else f" within its max_memory of {memory} MiB"

    def send(self, message: Message) -> None:
        """Send a message to the child. Raises OSError if the child has ended."""
        self._pipes.send(message)

    def receive(self, seconds: float | None) -> Message | None:
        """Return the child's next message, or None.

        None means that the seconds are over, that the bell rang, or that a message is incomplete. Raises
        Dead.
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
        except NoMessage as error:
            self.kill()
            raise Garbled(self.pid, self.end(), str(error)) from None
        if self._death in ready:
            raise self._dead()
        return None

    def _dead(self) -> Dead:
        self.died_unread = self._pipes.is_unread
        where = self.read_where(0.0)
        return Dead(self.pid, self.end(), where)

    def is_alive(self) -> bool:
        """Return whether the child runs, as far as is known."""
        with self._lock:
            return self._look() is None

    def ring(self) -> None:
        """Make ``receive`` return. Works on any thread."""
        with self._lock:
            if self._bell != -1:
                try:
                    os.write(self._bell, b"!")
                except BlockingIOError:  # the bell has rung often enough to fill the pipe
                    pass

    def ask_where(self) -> None:
        """Ask the child for the stacks of its threads, for ``read_where``. Works on any thread."""
        with self._lock:
            if self._where != -1:
                where.read_answer(self._where, 0.0)  # what is there by mistake
            if self._look() is None:
                os.kill(self.pid, where.ASKS)

    def read_where(self, until: float) -> str:
        """Return the child's answer, or "" if it gives none until then (``time.monotonic()``).

        Works on any thread.
        """
        with self._lock:
            return "" if self._where == -1 else where.read_answer(self._where, until)

    def kill(self) -> None:
        """Kill the child and what it has started, however busy it is. Works on any thread."""
        with self._lock:
            if self._look() is None:
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                except ProcessLookupError:  # the child has no process group yet
                    os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Close the pipes, at which the child ends, and return its exit status."""
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
                if programs.has_ended(self.pid):
                    with suppress(OSError):  # the group is nearly always empty by now
                        os.killpg(self.pid, signal.SIGTERM)
                    self._status = programs.exit_code_of(self.pid)
            except ChildProcessError:
                self._status = _UNKNOWN
        return self._status

    def _close(self) -> None:
        self._pipes.close()
        with self._lock:
            if self._bell != -1:
                os.close(self._bell)
                os.close(self._heard)
                os.close(self._where)
            if self._death != -1:
                os.close(self._death)
            self._bell = self._death = self._where = -1


def _open_pipes(count: int) -> list[int]:
    """Return the ends of count pipes, or open none at all."""
    ends: list[int] = []
    try:
        for _ in range(count):
            ends += os.pipe()
    except OSError:
        for end in ends:
            os.close(end)
        raise
    return ends
