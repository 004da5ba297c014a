"""Items that fail in a test: expected failures, and others, which fail the test."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask_background import signals
from flask_background.core.status import Status
from flask_background.testing.apps import find_app

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.item import WorkItem

    Takes = Callable[[WorkItem[Any]], bool]


class Failures:
    """The items of one app that have failed while a block watched."""

    def __init__(self) -> None:
        self.blocks = 0
        #: Functions that take a failed item or leave it, the innermost last.
        self.takers: list[Takes] = []
        self._unexpected: list[WorkItem[Any]] = []

    def hear(self, sender: Flask, item: WorkItem[Any], **_: object) -> None:
        """Receive ``item_finished``."""
        if item.status is Status.FAILED and not any(takes(item) for takes in reversed(self.takers)):
            self._unexpected.append(item)

    def check(self) -> None:
        """Raise AssertionError for items that failed unexpectedly, from the error of the first; once each."""
        __tracebackhide__ = True
        items, self._unexpected = self._unexpected, []
        if items:
            names = ", ".join(f"{item.task_name} ({type(item.exception(0)).__name__})" for item in items)
            count = "an item" if len(items) == 1 else f"{len(items)} items"
            raise AssertionError(
                f"{count} failed: {names}. If that is what the test is about, let the items run inside"
                " `with expect_failures(...):`"
            ) from items[0].exception(0)


_of_app: weakref.WeakKeyDictionary[Flask, Failures] = weakref.WeakKeyDictionary()


@contextmanager
def watch(app: Flask) -> Iterator[Failures]:
    """Collect the app's failed items in the block."""
    failures = _of_app.setdefault(app, Failures())
    if not failures.blocks:
        signals.item_finished.connect(failures.hear, app, weak=False)
    failures.blocks += 1
    try:
        yield failures
    finally:
        failures.blocks -= 1
        if not failures.blocks:
            signals.item_finished.disconnect(failures.hear, app)
            del _of_app[app]


@contextmanager
def taking(app: Flask, takes: Takes) -> Iterator[None]:
    """Let failed items of the block be taken by this function, which returns False for others."""
    with watch(app) as failures:
        failures.takers.append(takes)
        try:
            yield
        finally:
            failures.takers.remove(takes)


@contextmanager
def expect_failures(*errors: type[BaseException], count: int | None = None) -> Iterator[list[WorkItem[Any]]]:
    """Expect items to fail in the block, with one of these errors (none given: with any error).

    ``count``: how many items fail; None: at least one. Yields the list of these items. Raises AssertionError
    if no item failed, or another number than ``count``. Items that fail with other errors fail the test.
    """
    app, kinds = find_app(), errors or (BaseException,)
    failed: list[WorkItem[Any]] = []

    def takes(item: WorkItem[Any]) -> bool:
        expected = isinstance(item.exception(0), kinds)
        if expected:
            failed.append(item)
        return expected

    with watch(app) as failures, taking(app, takes):
        yield failed
        if len(failed) != count and not (count is None and failed):
            failures.check()  # an item that failed in another way says more
            names = " or ".join(kind.__name__ for kind in errors) or "any error"
            wanted = "an item" if count is None else f"{count} items"
            found = ", ".join(item.task_name for item in failed) or "none"
            raise AssertionError(f"{wanted} should have failed with {names}; failed: {found}")
