"""The log of a child process: records that nothing in the child handles are handled by the worker.

A worker's log is often configured outside of the app (by gunicorn, or in ``wsgi.py``), and the child, which
loads only the app, has no handlers then. A ``LogForwarder`` in the child sends the records of a running item
as data, and a ``LogReceiver`` in the worker gives each one to the worker's logger of that name: its level,
filters and handlers apply, in the context of the item.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flask_background.concurrency.private_names import find_private
from flask_background.executors.processes.messages import Logged

if TYPE_CHECKING:
    from flask_background.core.events import Events
    from flask_background.executors.processes.pipes import Pipes

# Undocumented names of CPython that this room uses: see ``private_names``.
PRIVATE_NAMES = ("logging.Logger.manager",)

# How long a record waits for a message that is being sent, in seconds: a signal handler may log in the midst
# of that, on the same thread.
_PATIENCE = 1.0
# How many records of one child the worker handles in a second, and how long their texts may be.
_MOST = 1_000
_LONGEST_TEXT = 20_000
_LONGEST_NAME = 200
# How many loggers the worker makes for names that only a child has used: a logger lives as long as its
# process.
_MOST_NEW = 1_000
# Numbers and times beyond these are no levels, lines and times.
_LARGEST = 1_000_000
_LATEST = 1e10


def log_levels() -> dict[str, int]:
    """Return the levels of this process's loggers, by name; the root logger has the name "root"."""
    root = logging.getLogger()
    levels = {"root": root.level}
    # Without the private name, a child creates the records that the root logger's level lets pass.
    for name, logger in _known_loggers().items():
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
    return levels


def _known_loggers() -> dict[str, object]:
    return dict(getattr(find_private(PRIVATE_NAMES[0]), "loggerDict", {}))


class LogForwarder(logging.Handler):
    """The child's side, a handler of its root logger.

    ``default``: the handler that Flask gives to an app's logger if it has none. Records that cannot be sent,
    such as those of a forked process, go there.
    """

    def __init__(self, pipes: Pipes, default: logging.Handler) -> None:
        super().__init__()
        self._pipes = pipes
        self._default = default
        self._pid = os.getpid()
        self._forwards = False
        self._is_sending = False

    def install(self, app_logger: logging.Logger, levels: dict[str, int]) -> None:
        """Forward records from now on, unless the app has configured the child's log itself.

        ``levels``: those of the worker's loggers, for the loggers that have none of their own.
        """
        root = logging.getLogger()
        if any(_handles(handler) for handler in root.handlers):
            return
        app_logger.removeHandler(self._default)
        root.addHandler(self)
        root.setLevel(levels.pop("root"))
        for name, level in levels.items():
            if (logger := logging.getLogger(name)).level == logging.NOTSET:
                logger.setLevel(level)

    def begin(self) -> None:
        """Forward records: the worker listens, because an item runs."""
        self._forwards = True

    def end(self) -> None:
        """Forward no more records. None is being sent when this method returns."""
        self.acquire()
        self._forwards = False
        self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record, which no handler of the child takes."""
        if _is_handled_by_others(record, self):
            return
        if not self._forwards or self._is_sending or os.getpid() != self._pid:
            self._default.handle(record)
            return
        self._is_sending = True
        try:
            self._pipes.send(_as_message(record), _PATIENCE)
        except TimeoutError:
            self._default.handle(record)
        except Exception:
            self.handleError(record)
        finally:
            self._is_sending = False


def _handles(handler: logging.Handler) -> bool:
    return not isinstance(handler, logging.NullHandler)


def _is_handled_by_others(record: logging.LogRecord, forwarder: logging.Handler) -> bool:
    """Return whether the app has given the record's logger, or one above it, a handler in this process."""
    return any(
        handler is not forwarder and _handles(handler)
        for logger in _with_parents(logging.getLogger(record.name))
        for handler in logger.handlers
    )


def _with_parents(logger: logging.Logger | None) -> Iterator[logging.Logger]:
    while logger is not None:
        yield logger
        logger = logger.parent if logger.propagate else None


def _as_message(record: logging.LogRecord) -> Logged:
    trace = record.exc_text or ""
    if record.exc_info and not trace:
        trace = logging.Formatter().formatException(record.exc_info)
    return Logged(
        logger=str(record.name)[:_LONGEST_NAME],
        level=int(record.levelno),
        text=_cut(record.getMessage()),
        trace=_cut(trace),
        stack=_cut(record.stack_info or ""),
        created=float(record.created),
        path=str(record.pathname)[:_LONGEST_NAME],
        line=int(record.lineno),
        function=str(record.funcName)[:_LONGEST_NAME],
        thread=str(record.threadName)[:_LONGEST_NAME],
    )


def _cut(text: str) -> str:
    """Return a text without its middle, with a note, if it is too long."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2 - 50  # with the note, the text is not too long
    return f"{text[:half]}... (cut: {len(text) - 2 * half:,} characters) ...{text[-half:]}"


class LogReceiver:
    """The worker's side, for one child after the other: an attendant's thread uses it alone."""

    def __init__(self) -> None:
        self._second = 0.0
        self._count = 0
        #: How many records have been left out since the last report.
        self.left_out = 0

    def receive(self, message: Logged, pid: int, events: Events) -> None:
        """Give a record of the child with this pid to its logger, unless there were too many."""
        now = time.monotonic()
        if now - self._second >= 1.0:
            self.report(pid, events)
            self._second, self._count = now, 0
        self._count += 1
        if self._count > _MOST:
            self.left_out += 1
            return
        message = message._replace(level=min(max(message.level, 0), _LARGEST))
        logger = _logger_of(message.logger[:_LONGEST_NAME], events.log)
        if logger.isEnabledFor(message.level):
            events.logged_elsewhere(logger, _as_record(message, pid))

    def report(self, pid: int, events: Events) -> None:
        """Say how many records were left out, if any were."""
        count, self.left_out = self.left_out, 0
        if count:
            events.left_out(count, pid, _MOST)


def _logger_of(name: str, other: logging.Logger) -> logging.Logger:
    """Return the logger of this name, or the other one if a child has made up too many names."""
    if name not in _new_names and name != "root" and name not in _known_loggers():
        if len(_new_names) >= _MOST_NEW:
            return other
        _new_names.add(name)
    return logging.getLogger(name)


# The names of loggers that this process has made for its children's records.
_new_names: set[str] = set()


def _as_record(message: Logged, pid: int) -> logging.LogRecord:
    created = message.created if 0.0 <= message.created < _LATEST else time.time()
    return logging.makeLogRecord(
        {
            "name": message.logger[:_LONGEST_NAME],
            "levelno": message.level,
            "levelname": logging.getLevelName(message.level),
            "msg": _cut(message.text),
            "exc_text": _cut(message.trace) or None,
            "stack_info": _cut(message.stack) or None,
            "created": created,
            "msecs": int(created % 1.0 * 1e3),
            "pathname": message.path[:_LONGEST_NAME],
            "filename": os.path.basename(message.path)[:_LONGEST_NAME],
            "module": os.path.splitext(os.path.basename(message.path))[0][:_LONGEST_NAME],
            "lineno": min(max(message.line, 0), _LARGEST),
            "funcName": message.function[:_LONGEST_NAME],
            "threadName": message.thread[:_LONGEST_NAME],
            "process": pid,
        }
    )
