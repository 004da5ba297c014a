"""For the tests of an app: look at what it enqueues, run it, move its time, and expect its failures.

Functions that take no app mean the current app, or that of the innermost block of ``record_items`` or
``use_backend``, or the app that the task's Background was made with.
"""

from flask_background.testing.apps import stopping_apps, use_backend
from flask_background.testing.assertions import assert_enqueued, refute_enqueued
from flask_background.testing.failures import expect_failures
from flask_background.testing.recording import RecordedItem, RecordedItems, record_items
from flask_background.testing.running import fire_token, move_time, perform, run_due, run_items

__all__ = [
    "RecordedItem",
    "RecordedItems",
    "assert_enqueued",
    "expect_failures",
    "fire_token",
    "move_time",
    "perform",
    "record_items",
    "refute_enqueued",
    "run_due",
    "run_items",
    "stopping_apps",
    "use_backend",
]
