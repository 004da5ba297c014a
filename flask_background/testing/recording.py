"""Recording what is enqueued, whichever backend the items go to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.core.backend import Backend, Entry
from flask_background.core.checks import shown
from flask_background.core.item import WorkItem
from flask_background.core.options import TaskOptions
from flask_background.core.status import Status
from flask_background.enqueueing import after_commit
from flask_background.testing.apps import entered
from flask_background.testing.failures import Failures, watch

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.app_state import BackgroundState
    from flask_background.core.callee import Callee
    from flask_background.core.request_state import RequestState


@dataclass(frozen=True, slots=True, eq=False)
class RecordedItem:
    """One enqueued call: the item, and what it was enqueued with."""

    item: WorkItem[Any]
    task_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: TaskOptions
    func: Callable[..., Any] = field(repr=False)

    @property
    def is_enqueued(self) -> bool:
        """Whether the item was enqueued for good.

        False if the item waits for a commit, or was dropped or cancelled before it ran.
        """
        withdrawn = self.item.status is Status.CANCELLED and not self.item.attempt
        return not withdrawn and not after_commit.is_waiting(self.item)

    def __str__(self) -> str:
        """Return the call as in Python, with the options of ``using`` and, if it does not count, why."""
        given = [*map(shown, self.args), *(f"{name}={shown(value)}" for name, value in self.kwargs.items())]
        options = [
            f" {name}={value}"
            for name in ("delay", "run_at", "key")
            if (value := getattr(self.options, name)) is not None
        ]
        waits = after_commit.is_waiting(self.item)
        why = "" if self.is_enqueued else " (waits for a commit)" if waits else " (dropped or cancelled)"
        return f"{self.task_name}({', '.join(given)}){''.join(options)}{why}"


class RecordedItems(list[RecordedItem]):
    """The items that were enqueued in a block, in order."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def check_failures(self) -> None:
        """Raise AssertionError if an item has failed that no test expects; once for each item.

        The end of the block does the same. Items of the backends "local" and "celery" are not looked at.
        """
        __tracebackhide__ = True
        self._check()

    def __str__(self) -> str:
        return "\n".join(f"  {number}. {each}" for number, each in enumerate(self, 1)) or "  nothing"


_of_app: weakref.WeakKeyDictionary[Flask, list[RecordedItems]] = weakref.WeakKeyDictionary()


@contextmanager
def record_items(app: Flask) -> Iterator[RecordedItems]:
    """Record the items that the app enqueues in the block, in any thread and whatever their backend.

    Yields the list of RecordedItem objects. The items go where they go otherwise. With the backends
    "immediate" and "manual" the end of the block raises AssertionError if an item failed unexpectedly.
    """
    with entered(app) as state, watch(app) as failures:
        items = RecordedItems(partial(_check, failures, state))
        records = _of_app.setdefault(app, [])
        records.append(items)
        before = state.change_route(
            lambda callee, find: RecordingBackend(
                items, find(callee) if before is None else before(callee, find)
            )
        )
        try:
            yield items
        finally:
            state.change_route(before)
            records.pop()
        items.check_failures()


def record_of(app: Flask) -> RecordedItems:
    """Return the record of the innermost block for this app."""
    records = _of_app.get(app)
    if not records:
        raise RuntimeError(
            f"nothing records the items of app {app.name!r}: use `with record_items(app):` around the code"
            " that enqueues, or the fixture background_items"
        )
    return records[-1]


def _check(failures: Failures, state: BackgroundState) -> None:
    __tracebackhide__ = True
    if state.settings.backend in ("immediate", "manual"):
        failures.check()


class RecordingBackend(Backend[WorkItem[Any]]):
    """Hands the items of one call on to a backend, and records those that it takes."""

    def __init__(self, items: RecordedItems, backend: Backend[Any]) -> None:
        self._items = items
        self._backend = backend
        self._recorded: dict[str, RecordedItem] = {}
        self.takes_batches = backend.takes_batches
        self.can_retract = backend.can_retract

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        item: WorkItem[Any] = self._backend.make_item(callee, args, kwargs, state)
        self._recorded[item.id] = RecordedItem(item, callee.name, args, kwargs, callee.options, callee.func)
        return item

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        with self._recording([item]) as taken:
            taken.append(self._backend.accept(item, held, due))
        return taken[0]

    def accept_many(
        self, entries: Sequence[Entry[WorkItem[Any]]], rest: Callable[[], object]
    ) -> list[WorkItem[Any]]:
        with self._recording([entry.item for entry in entries]) as taken:
            taken.extend(self._backend.accept_many(entries, rest))
        return taken

    def reserve(self, item: WorkItem[Any]) -> WorkItem[Any]:
        with self._recording([item]) as taken:
            taken.append(self._backend.reserve(item))
        return taken[0]

    def start_held(self, item: WorkItem[Any]) -> None:
        self._backend.start_held(item)

    def cancel_held(self, item: WorkItem[Any], why: str) -> None:
        self._backend.cancel_held(item, why)

    def submit_reserved(self, item: WorkItem[Any], due: float | None) -> None:
        self._backend.submit_reserved(item, due)

    @contextmanager
    def _recording(self, items: Sequence[WorkItem[Any]]) -> Iterator[list[WorkItem[Any]]]:
        """Record items before the backend takes them: an immediate item may enqueue others."""
        recorded = [self._recorded.pop(item.id) for item in items]
        self._items.extend(recorded)
        taken: list[WorkItem[Any]] = []
        try:
            yield taken
        finally:
            for index, record in enumerate(recorded):
                if index >= len(taken) or taken[index] is not record.item:
                    self._items.remove(record)  # refused, or another item has its key
