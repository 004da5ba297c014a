"""What a child process of a process executor runs: it loads the app, and runs one item after the other.

The main thread runs the items; another one listens to the parent, so that a token fires while an item runs,
and the child ends at once when its parent has, even by ``kill -9``.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from flask.cli import locate_app

from flask_background.app_state import become_child_process, state_of
from flask_background.concurrency import native
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes.child_item import ChildHost
from flask_background.executors.processes.child_listener import Listener
from flask_background.executors.processes.child_process import SIGNALS
from flask_background.executors.processes.memory import limit_memory, note_start
from flask_background.executors.processes.pipes import Pipes

if TYPE_CHECKING:
    from flask import Flask


# From <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def main(inbound: int, outbound: int, parent: int) -> NoReturn:
    """Serve the parent, which has given us these two pipes, until it ends."""
    try:
        _leave_signals_to_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # Blocked meanwhile, or one that comes at once would be lost in a handler that is not meant for it.
        os.register_at_fork(
            before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS),
            after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS),
            after_in_child=_heed_signals,
        )
        os.setpgid(0, 0)  # so that it is killed with what its items have started
        _end_with(parent)
        for pipe in (inbound, outbound):
            os.set_inheritable(pipe, False)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        if isinstance(sys.stdout, io.TextIOWrapper):  # what an item has printed is not lost when it is killed
            sys.stdout.reconfigure(line_buffering=True)
        _serve(Pipes(inbound, outbound))
    except (EOFError, BrokenPipeError):
        pass  # the parent has ended
    except BaseException:  # a handler's that an item has left for some signal, perhaps
        traceback.print_exc()
    finally:
        os._exit(os.EX_SOFTWARE)  # an orderly end waits for every thread that an item has left


def _serve(pipes: Pipes) -> None:
    setup = pipes.receive()
    assert isinstance(setup, parcels.Setup)
    os.nice(setup.nice)
    if setup.max_memory is not None:
        limit_memory(setup.max_memory)
    try:
        app = load(setup.location)
    except BaseException:
        pipes.send(parcels.Started(traceback.format_exc()))
        os._exit(1)
    note_start()
    _leave_signals_to_parent()  # a module of the app may have had handlers of its own for them
    listener = Listener(pipes)
    # Not before, for gevent cannot patch a process that has threads, if the app wants it to.
    native.start_thread(listener.run, "background-channel")
    pipes.send(parcels.Started(None))
    registry = state_of(app).registry
    while True:
        job = listener.jobs.get()
        ChildHost(app, pipes, job).run(registry)
        job = None  # type: ignore[assignment]  # or an idle child would keep its last item alive


def load(location: str) -> Flask:
    """Load the app as ``flask --app`` does, but for the path: the parent's has been taken over."""
    become_child_process()
    module, _, name = location.partition(":")
    app = locate_app(module, name or None)
    if "background" not in app.extensions:
        raise RuntimeError(f"{location!r} is an app without a Background")
    return app


def _end_with(parent: int) -> None:
    """Have the system end this process with its parent: one C call may hold up the thread that listens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that
        os._exit(0)


def _leave_signals_to_parent() -> None:
    for number in SIGNALS:
        signal.signal(number, _do_nothing)  # no SIG_IGN: what an item starts would inherit that


def _heed_signals() -> None:
    """In a process that an item has forked, as multiprocessing does: who started it wants to end it, too."""
    for number in SIGNALS:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _do_nothing(*_: object) -> None:
    pass
