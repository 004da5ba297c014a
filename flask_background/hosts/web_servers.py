"""The web servers that are started by a command of their own, and whether this process serves for one.

The command's name alone does not tell: a server may have parents that only supervise, and an item may start
processes that inherit the name. So a process serves when it also has a socket that accepts connections.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import PurePath
from typing import Any

from flask_background.concurrency import native

# Servers that serve in the process of their command, and servers that serve in its multiprocessing children.
# uvicorn does either.
_SERVE_THEMSELVES = frozenset({"cheroot", "daphne", "uvicorn", "waitress", "waitress-serve"})
_SERVE_IN_CHILDREN = frozenset({"granian", "hypercorn", "uvicorn"})

#: The modules of these servers, and of ``flask run``, that load the app: by name, or by the package's name.
LOADERS = _SERVE_THEMSELVES | _SERVE_IN_CHILDREN | {"flask.cli"}

# With this flag a socket object leaves the mode of a descriptor alone that it is made of.
_AS_IT_IS = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)


def is_of_server() -> bool:
    """Return whether the command of a known web server started this process, to serve the app it loads."""
    program = PurePath(sys.argv[0] if sys.argv else "")
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m, or a script
    return name in (_SERVE_IN_CHILDREN if _is_child() else _SERVE_THEMSELVES)


def _is_child() -> bool:
    """Return whether this process was started by multiprocessing, which is loaded then."""
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def is_uwsgi(module: Any) -> bool:
    """Return whether this is the module that uWSGI builds in, in a process that gevent does not patch later.

    uWSGI has gevent patch a worker that already serves, at a moment that no hook tells.
    """
    return hasattr(module, "worker_id") and "gevent" not in module.opt


def listens() -> bool:
    """Return whether this process has a socket that accepts connections, whatever opened it."""
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return False
    return any(map(_accepts, descriptors))


def _accepts(descriptor: int) -> bool:
    # No copy of the descriptor is made: to close a copy of a file's would release locks on the file.
    borrowed = None
    try:
        borrowed = native.original("socket", "socket")(socket.AF_UNIX, _AS_IT_IS, 0, descriptor)
        return bool(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # the descriptor is no socket's, or has just been closed
    finally:
        if borrowed is not None:
            borrowed.detach()
