"""What can go wrong, each with its cure.

::

    BackgroundError
    ├── ConfigurationError       a BACKGROUND_* setting or a task's option is not usable   (ValueError)
    │   └── Unsupported          the backend that the task's items go to cannot do that
    ├── NotInitialized           no app is known, or init_app was not called for it        (RuntimeError)
    ├── ArgumentRefused          a live object was handed over to an item                   (TypeError)
    │   ├── NotData              what is to be kept in the journal is no data
    │   └── PayloadTooLarge      the arguments are larger than BACKGROUND_MAX_PAYLOAD allows
    ├── StateRefused             a state processor gave something that is not JSON          (TypeError)
    ├── UploadMoved              an upload was used after an item had taken it over        (ValueError)
    ├── Refused                  an item was not accepted; answers 503 in a view
    │   ├── QueueFull            as many items are waiting as BACKGROUND_MAX_QUEUED allows
    │   ├── Stopping             the process stops and takes no more items
    │   ├── JournalError         the journal cannot be written or read: disk full, not writable, locked
    │   ├── BrokerError          Celery's broker or result backend cannot be reached
    │   └── UploadError          an upload cannot be stored where BACKGROUND_UPLOADS says
    ├── EnqueuedInChild          what is not durable was enqueued in a child process         (RuntimeError)
    ├── NotFinished              the item had not ended when the wait's time was up      (TimeoutError)
    ├── ItemCancelled            the item was cancelled
    ├── ItemInterrupted          the host stopped before the item had ended
    ├── ItemTimeout              the item's own time was up                              (TimeoutError)
    ├── ItemFailed               the item failed in another process, or was parked
    ├── ItemCrashed              the child process that ran the item died, or could not start
    └── ResultLost               what a durable item returned is not data, so it was not kept
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.exceptions import ServiceUnavailable

if TYPE_CHECKING:
    from flask_background.core.token import CancellationToken


class BackgroundError(Exception):
    """The base of every error that this package raises."""


class ConfigurationError(BackgroundError, ValueError):
    """A setting or an option has a value that is not allowed; the message says which are."""


class Unsupported(ConfigurationError):
    """A task asks its backend for what that cannot do; the message says what to do instead."""


class NotInitialized(BackgroundError, RuntimeError):
    """There is no app to enqueue for, or the app does not know this Background."""


class ArgumentRefused(BackgroundError, TypeError):
    """An argument is alive only while its request is; the message names it and the cure."""


class NotData(ArgumentRefused):
    """Of a durable item, something would not come back from the journal as it is; the message says what."""


class PayloadTooLarge(ArgumentRefused):
    """A durable item's arguments are larger than ``BACKGROUND_MAX_PAYLOAD`` allows."""


class StateRefused(BackgroundError, TypeError):
    """A state processor returned something other than a dict of JSON values."""


class UploadMoved(BackgroundError, ValueError):
    """An upload was touched in the view after an item had taken it over."""


class Refused(BackgroundError, ServiceUnavailable):
    """An item was not accepted. A view that lets it pass answers 503 with Retry-After.

    ``str()`` is for the developer; visitors see a general text without names or numbers.
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


class QueueFull(Refused):
    """As many items wait as ``BACKGROUND_MAX_QUEUED`` allows, under ``BACKGROUND_OVERFLOW="raise"``."""


class Stopping(Refused):
    """The process stops: its items are drained, or their time is up. Another process will accept."""

    retry_after_seconds = 5


class JournalError(Refused):
    """The journal cannot be used: what was to be enqueued is not. The message says where to look."""

    retry_after_seconds = 5


class BrokerError(Refused):
    """Celery's broker or result backend has not answered: what was to be enqueued is not.

    Of a durable task: nor could the journal take it, or Celery cannot send it at all. The message says which.
    Where it has hung, rather than been gone, the item may have reached it all the same, and then it runs.
    """

    retry_after_seconds = 5


class UploadError(Refused):
    """An upload could not be stored where ``BACKGROUND_UPLOADS`` says: what was to be enqueued is not."""

    retry_after_seconds = 5


class EnqueuedInChild(BackgroundError, RuntimeError):
    """An item that runs in a child process has enqueued one that would live there, and end with the child."""


class NotFinished(BackgroundError, TimeoutError):
    """``result()`` or ``exception()`` waited its time, and the item goes on."""


class ItemCancelled(BackgroundError):
    """Raised in an item by ``token.raise_if_cancelled()``, and by ``result()`` of a cancelled one.

    Let it pass: the run ends with the status that belongs to the token's reason.
    """

    def __init__(self, message: str, token: CancellationToken | None = None) -> None:
        super().__init__(message)
        self.token = token


class ItemInterrupted(BackgroundError):
    """Raised by ``result()`` of an item that had not ended when the host's grace period had."""


class ItemTimeout(BackgroundError, TimeoutError):
    """The failure of an item that its ``timeout`` ended."""


class ItemFailed(BackgroundError):
    """Raised by ``result()`` of a durable item that failed in another process; that traceback is a note."""


class ItemCrashed(BackgroundError):
    """The failure of an item whose child process died under it; the message names the signal or status."""


class ResultLost(BackgroundError):
    """Raised by ``result()`` of an item that succeeded, and returned what cannot be kept, or sent here.

    The journal keeps data, and what a child process returns has to be picklable.
    """
