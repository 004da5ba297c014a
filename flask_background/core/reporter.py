"""Log lines and signals that cannot break the code that reports something.

A signal's receivers are called where the event happens: in the view, or on the thread that runs the item. A
receiver would hold up a service thread, so that thread hands its receivers to a thread for callbacks, which
calls them one after the other.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background import signals
from flask_background.concurrency import native
from flask_background.concurrency.callbacks import CallsInOrder, report
from flask_background.core.odd_errors import is_from_signal

if TYPE_CHECKING:
    from blinker import NamedSignal
    from flask import Flask


class Reporter:
    """Writes the log lines and sends the signals of one app. The logger is a child of the app's logger."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.log = app.logger.getChild("background")
        self._elsewhere = CallsInOrder()

    def say(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Log a line, even if a filter or handler of the app or the text of an item's error raises.

        ``fields``: attributes of the log record.
        """
        try:
            self.log.log(level, message, *args, exc_info=exc_info, extra=fields, stacklevel=2)
        except BaseException as error:
            report(error)
            if is_from_signal(error):
                raise

    def handle(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Hand a record to a logger, even if a filter or handler of the app raises."""
        try:
            logger.handle(record)
        except BaseException as error:
            report(error)
            if is_from_signal(error):
                raise

    def log_error(self, what: str, error: BaseException, fields: Mapping[str, object] | None = None) -> None:
        """Log an error that affects no item's outcome."""
        self.say(logging.ERROR, "%s", what, exc_info=error, fields=fields)

    def send(self, signal: NamedSignal, **values: Any) -> None:
        """Call the receivers of a signal, here or on another thread; the error of a receiver is logged."""
        # The signal ``stopped`` must not overtake ``stopping``.
        in_turn = self._elsewhere.is_busy and signal in (signals.stopping, signals.stopped)
        for receiver in signal.receivers_for(self._app):
            call = partial(receiver, self._app, **values)
            if in_turn or native.is_service_thread():
                in_context = partial(contextvars.copy_context().run, call)
                self._elsewhere.call(in_context, partial(self._receiver_failed, signal.name))
                continue
            try:
                call()
            except BaseException as error:
                self._receiver_failed(signal.name, error)
                if is_from_signal(error):
                    raise

    def wait_for_receivers(self, timeout: float) -> bool:
        """Wait until receivers on other threads have been called; return False after timeout seconds."""
        return self._elsewhere.wait(timeout)

    def _receiver_failed(self, name: str, error: BaseException) -> None:
        self.log_error(f"A receiver of {name} failed", error)
