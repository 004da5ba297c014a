"""Every error of the package; each message names the cure.

::

    BackgroundError
    ├── ConfigurationError         a BACKGROUND_* setting or a task's option is not usable  (ValueError)
    │   └── UnsupportedError       the backend of the task's items lacks what the task asks for
    ├── NotInitializedError        no app is known, or init_app was not called for it       (RuntimeError)
    ├── ArgumentError              an argument is alive only while its request is           (TypeError)
    │   ├── SerializationError     an argument of a durable item cannot be stored without loss
    │   └── PayloadTooLargeError   the arguments are larger than BACKGROUND_MAX_PAYLOAD allows
    ├── StateError                 a state processor gave something that is not JSON        (TypeError)
    ├── UploadMovedError           the view used an upload that an item has taken over      (ValueError)
    ├── EnqueueError               an item was not accepted; answers 503 in a view
    │   ├── QueueFull              as many items are waiting as BACKGROUND_MAX_QUEUED allows
    │   ├── Stopping               the process stops and accepts no more items
    │   ├── JournalError           the journal cannot be written or read: disk full, not writable, locked
    │   ├── BrokerError            Celery's broker or result backend cannot be reached
    │   └── UploadError            an upload cannot be stored where BACKGROUND_UPLOADS says
    ├── EnqueuedInChildError       an item in a child process enqueued an in-memory item    (RuntimeError)
    ├── WaitError                  a wait for an item would block that very item            (RuntimeError)
    ├── NotFinishedError           the item had not ended when the wait's time was up       (TimeoutError)
    ├── ItemCancelledError         the item was cancelled
    ├── ItemInterruptedError       the host stopped before the item had ended
    ├── ItemTimeoutError           the item's own time was up                               (TimeoutError)
    ├── ItemFailedError            the item failed in another process, or was parked
    ├── ItemCrashedError           the child process that ran the item died, or could not start
    ├── RecordGoneError            the journal no longer has a record of the item           (LookupError)
    └── ResultLostError            the result of a durable item, or from a child process, is not data
"""

from __future__ import annotations

import warnings
from typing import Self

from werkzeug.exceptions import ServiceUnavailable


class BackgroundError(Exception):
    """The base of every error that this package raises."""


class ConfigurationError(BackgroundError, ValueError):
    """A setting or an option has a value that is not allowed; the message names the allowed values."""


class UnsupportedError(ConfigurationError):
    """A task asks for a feature that its backend lacks; the message names an alternative."""


class NotInitializedError(BackgroundError, RuntimeError):
    """There is no app to enqueue for, or the app does not know this Background."""


class ArgumentError(BackgroundError, TypeError):
    """An argument is alive only while its request is; the message names it and the cure."""


class SerializationError(ArgumentError):
    """An argument of a durable item cannot be stored without loss; the message names the argument."""


class PayloadTooLargeError(ArgumentError):
    """The arguments of a durable item are larger than ``BACKGROUND_MAX_PAYLOAD`` allows."""


class StateError(BackgroundError, TypeError):
    """A state processor returned something other than a dict of JSON values."""


class UploadMovedError(BackgroundError, ValueError):
    """The view used an upload after an item had taken it over."""


class EnqueueError(BackgroundError, ServiceUnavailable):
    """An item was not accepted. A view that does not catch this error answers 503 with Retry-After.

    ``str(error)`` is for the developer; visitors see a general text without names or numbers.
    """

    retry_after_seconds = 1

    def __init__(self, message: str) -> None:
        ServiceUnavailable.__init__(
            self,
            "The server is busy. Please try again in a moment.",
            retry_after=self.retry_after_seconds,
        )
        self.message = message

    def __str__(self) -> str:
        return self.message


class QueueFull(EnqueueError):
    """As many items wait as ``BACKGROUND_MAX_QUEUED`` allows, under ``BACKGROUND_OVERFLOW="raise"``."""


class Stopping(EnqueueError):
    """The process is stopping and accepts no more items; another process of the app will."""

    retry_after_seconds = 5

    @classmethod
    def refusing(cls, task_name: str) -> Self:
        """Return the error for an item that is enqueued after its process has stopped accepting items."""
        return cls(
            f"{task_name} was not enqueued: this process is stopping and accepts no more items."
            " Let the error pass: the view answers 503 with Retry-After, and the next try reaches another"
            " process of the app"
        )


class JournalError(EnqueueError):
    """The journal cannot be read or written, so the item was not enqueued; the message names the cause."""

    retry_after_seconds = 5


class BrokerError(EnqueueError):
    """Celery's broker or result backend did not answer, so the item was not enqueued.

    For a durable task this also means that the journal could not store the item, or that Celery can never
    send it; the message says which. If the broker hung, the item may have reached it all the same, and runs.
    """

    retry_after_seconds = 5


class UploadError(EnqueueError):
    """An upload could not be stored where ``BACKGROUND_UPLOADS`` says, so the item was not enqueued."""

    retry_after_seconds = 5


class EnqueuedInChildError(BackgroundError, RuntimeError):
    """An item in a child process enqueued an in-memory item, which would end with the child."""


class WaitError(BackgroundError, RuntimeError):
    """A wait for an item would block that very item; the message says how to wait instead."""


class NotFinishedError(BackgroundError, TimeoutError):
    """The item had not ended after the timeout of ``result()`` or ``exception()``; the item goes on."""


class ItemCancelledError(BackgroundError):
    """The item was cancelled: raised by ``token.raise_if_cancelled()`` in the item, and by ``result()``.

    An item should let this error pass: its run then ends with the status that belongs to the token's reason.
    """

    def __init__(self, message: str, token: object = None) -> None:
        super().__init__(message)
        self.token = token


class ItemInterruptedError(BackgroundError):
    """The item had not ended here when the host's grace period was over; raised by ``result()``.

    The message says if the item was handed over, so that another process runs it.
    """


class ItemTimeoutError(BackgroundError, TimeoutError):
    """The run was cut short, or ended itself by its token, because the item's ``timeout`` had passed."""


class ItemFailedError(BackgroundError):
    """The item failed in another process, whose traceback is a note on this error; raised by ``result()``."""


class ItemCrashedError(BackgroundError):
    """The item failed because its child process died; the message names the signal or exit status."""


class RecordGoneError(BackgroundError, LookupError):
    """The status of a durable item is unknown: the journal no longer has a record of the item."""


class ResultLostError(BackgroundError):
    """The item succeeded, but its result could not be stored or sent; raised by ``result()``.

    The journal and child processes keep results that are data only: see "Executors" in the documentation.
    """


# The names of these errors in development versions before 0.1.
_OLD_NAMES = {
    "ArgumentRefused": "ArgumentError",
    "EnqueuedInChild": "EnqueuedInChildError",
    "ItemCancelled": "ItemCancelledError",
    "ItemCrashed": "ItemCrashedError",
    "ItemFailed": "ItemFailedError",
    "ItemInterrupted": "ItemInterruptedError",
    "ItemTimeout": "ItemTimeoutError",
    "NotData": "SerializationError",
    "NotFinished": "NotFinishedError",
    "NotInitialized": "NotInitializedError",
    "PayloadTooLarge": "PayloadTooLargeError",
    "Refused": "EnqueueError",
    "ResultLost": "ResultLostError",
    "StateRefused": "StateError",
    "Unsupported": "UnsupportedError",
    "UploadMoved": "UploadMovedError",
}


def __getattr__(name: str) -> object:
    if (new := _OLD_NAMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now called {new}: use that name", DeprecationWarning, stacklevel=2)
    return globals()[new]
