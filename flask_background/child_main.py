"""The main program of a process executor's child: loads the app, and runs one item after the other.

The main thread runs the items. A second thread listens to the parent: a token can fire while an item runs,
and the child ends as soon as the parent has ended, even by ``kill -9``.
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
from flask.logging import default_handler

from flask_background.app_state import become_child_process, state_of
from flask_background.concurrency import native
from flask_background.core.events import Events
from flask_background.executors.processes import messages as parcels
from flask_background.executors.processes import where
from flask_background.executors.processes.child_item import ChildHost
from flask_background.executors.processes.child_listener import Listener
from flask_background.executors.processes.child_log import LogForwarder
from flask_background.executors.processes.child_process import SIGNALS
from flask_background.executors.processes.memory import limit_memory, note_start
from flask_background.executors.processes.pipes import Pipes

if TYPE_CHECKING:
    from flask import Flask


# From <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def main(inbound: int, outbound: int, whereabouts: int, parent: int) -> NoReturn:
    """Serve the parent, through these pipes, until the parent ends."""
    try:
        _leave_signals_to_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # The signals are blocked during a fork, or one that comes at once would be lost in the parent's
        # handler.
        os.register_at_fork(
            before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS),
            after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS),
            after_in_child=_heed_signals,
        )
        os.setpgid(0, 0)  # a new group: it is killed together with what its items started
        _end_with(parent)
        for pipe in (inbound, outbound, whereabouts):
            os.set_inheritable(pipe, False)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        if isinstance(sys.stdout, io.TextIOWrapper):  # an item's output is not lost when the child is killed
            sys.stdout.reconfigure(line_buffering=True)
        _serve(Pipes(inbound, outbound), whereabouts)
    except (EOFError, BrokenPipeError):
        pass  # the parent has ended
    except BaseException:  # perhaps raised by a signal handler that an item left
        traceback.print_exc()
    finally:
        os._exit(os.EX_SOFTWARE)  # an orderly exit would wait for every thread that an item left


def _serve(pipes: Pipes, whereabouts: int) -> None:
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
    _leave_signals_to_parent()  # a module of the app may have installed other handlers
    where.answer_through(whereabouts)
    events = Events(app)
    listener = Listener(pipes, events)
    # No thread may start before the app is loaded: gevent cannot patch a process that has threads.
    native.start_thread(listener.run, "background-channel")
    pipes.send(parcels.Started(None))
    registry = state_of(app).registry
    log = LogForwarder(pipes, default_handler)
    log.install(app.logger, setup.log_levels)
    while True:
        job = listener.jobs.get()
        ChildHost(app, registry, events, pipes, log, job).run()
        job = None  # type: ignore[assignment]  # or an idle child would keep its last item alive


def load(location: str) -> Flask:
    """Load the app as ``flask --app`` does, but with the ``sys.path`` of the parent."""
    become_child_process()
    module, _, name = location.partition(":")
    app = locate_app(module, name or None)
    if "background" not in app.extensions:
        raise RuntimeError(
            f"{location!r} is an app without a Background: call Background(app) where the app is made"
        )
    return app


def _end_with(parent: int) -> None:
    """Ask the system to kill this process with its parent: a C call may hold up the listening thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl was called
        os._exit(0)


def _leave_signals_to_parent() -> None:
    for number in SIGNALS:
        signal.signal(number, _do_nothing)  # not SIG_IGN, which programs started by an item would inherit


def _heed_signals() -> None:
    """Restore the default signal handlers in a process forked by an item, so that the item can end it."""
    for number in SIGNALS:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _do_nothing(*_: object) -> None:
    pass
