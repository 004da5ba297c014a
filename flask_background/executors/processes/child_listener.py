"""The child's end of its pipes: receives calls, and the news of the running item's token."""

from __future__ import annotations

import os
import sys
import time
import traceback

from flask_background.concurrency import native
from flask_background.core.events import Events
from flask_background.core.status import Attempt
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.pipes import Pipes

# How long the receivers of the child's last signal may take, in seconds. The parent kills the child after a
# second.
_RECEIVED_WITHIN = 0.95


class Job:
    """One call that the parent has asked for, with its token."""

    def __init__(self, call: parcels.Call) -> None:
        self.call: parcels.Call | None = call
        self.over = False
        self.source = CancellationSource()
        self.attempt = Attempt(call.started)
        self.attempt.number = call.attempt
        self._limit(call.remaining)
        if call.reason is not None:
            self.source.fire(CancelReason(call.reason))

    def take_call(self) -> parcels.Call:
        """Return the call, and keep no reference to it."""
        call, self.call = self.call, None
        assert call is not None
        return call

    def ask_to_end(self, reason: CancelReason, remaining: float | None = None) -> None:
        """Fire the token, and cancel what the run awaits."""
        if self.over:
            return
        self._limit(remaining)
        self.source.fire(reason)
        if reason is not CancelReason.SHUTDOWN and (abort := self.attempt.abort) is not None:
            abort()

    def _limit(self, seconds: float | None) -> None:
        if seconds is not None:
            self.source.limit(time.monotonic() + seconds)


class Listener:
    """Receives the parent's messages. One item runs at a time, so news of a token is about the last job."""

    def __init__(self, pipes: Pipes, events: Events) -> None:
        self._pipes = pipes
        self._events = events
        self.jobs: native.SimpleQueue[Job] = native.SimpleQueue()

    def run(self) -> None:
        """Listen until the parent ends; then end this process, whatever its item does."""
        job = None
        try:
            while True:
                message = self._pipes.receive()
                if isinstance(message, parcels.Call):
                    job = Job(message)
                    self.jobs.put(job)
                elif isinstance(message, parcels.TokenFired) and job is not None:
                    job.ask_to_end(CancelReason(message.reason), message.remaining)
                del message  # otherwise an idle child would keep the arguments of its last item
        except (EOFError, OSError):
            if job is None or job.over:
                self._events.child_ending()
                self._events.wait_for_receivers(_RECEIVED_WITHIN)
                flush()
            os._exit(0)
        except BaseException:
            # For example, there is no memory for the message. Then the next message cannot be read either.
            traceback.print_exc()
            os._exit(os.EX_OSERR)


def flush() -> None:
    """Flush standard output and standard error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
