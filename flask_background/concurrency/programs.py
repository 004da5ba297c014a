"""Programs that this process starts: the interpreter, their start and their end, under gevent too."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from flask_background.concurrency import native
from flask_background.concurrency.private_names import find_private

# Undocumented names of CPython that this module uses: see ``private_names``.
PRIVATE_NAMES = ("multiprocessing.util.spawnv_passfds",)


def interpreter() -> str:
    """Return the path of the Python interpreter of this process.

    In a server with a built-in Python (uWSGI, mod_wsgi) ``sys.executable`` is the server's program, or empty,
    or the interpreter from which the virtual environment was made, which does not have all its modules.
    Raises FileNotFoundError if there is no interpreter.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    is_python = os.path.basename(sys.executable).startswith(("python", "pypy"))
    is_outside = sys.prefix != sys.base_prefix and not sys.executable.startswith(sys.prefix)
    if is_python and not is_outside:
        return sys.executable
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix)):
        for candidate in (name, "python3", "python"):
            path = os.path.join(prefix, "bin", candidate)
            if os.access(path, os.X_OK):
                return path
    if is_python:
        return sys.executable
    raise FileNotFoundError(
        f"child processes need a Python interpreter, and there is no {name} in {sys.prefix}/bin"
        f" (sys.executable is {sys.executable!r}): install one there"
    )


def start_program(arguments: Sequence[str], keeps: Sequence[int]) -> int:
    """Start a program with these file descriptors besides the standard ones; return its pid.

    multiprocessing does the same. gevent's Popen works only on the main thread.
    """
    spawn = find_private(PRIVATE_NAMES[0])
    if spawn is None:  # the program also inherits descriptors that other code has made inheritable
        actions = [(os.POSIX_SPAWN_DUP2, keep, keep) for keep in keeps]
        return os.posix_spawn(arguments[0], list(arguments), os.environ, file_actions=actions)
    pid: int = spawn(os.fsencode(arguments[0]), arguments, keeps)
    return pid


def has_ended(pid: int) -> bool:
    """Return whether a child process has ended, without reaping it: its pid is not used again.

    Raises ChildProcessError if other code in this process has reaped the child.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def exit_code_of(pid: int) -> int | None:
    """Return a child's exit status, or minus the number of its signal; None if the child has not ended.

    Raises ChildProcessError if other code in this process has reaped the child.
    """
    ended, status = native.original("os", "waitpid")(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None
