"""The path of a batch: all of its items are entered, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from flask_background.core.backend import Entry, Overflow, name_call
from flask_background.core.callee import BareCall, Callee
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.enqueueing.submit import check_data, current_request, describe_item
from flask_background.errors import ArgumentError, EnqueueError, UnsupportedError, UploadMovedError
from flask_background.payload import arguments

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.backend import Backend
    from flask_background.payload.arguments import Moved


def submit_many(app_state: BackgroundState, calls: Sequence[BareCall]) -> list[WorkItem[Any]]:
    """Enter the items of all calls, and return them in order; or raise an error, and enter none."""
    for number, call in enumerate(calls):
        _refuse_later(number, call.callee)
    if app_state.around_enqueue:
        return _submit_inside(app_state, calls)
    return _submit(app_state, calls)


def _submit(
    app_state: BackgroundState, calls: Sequence[BareCall], carried: Sequence[Mapping[str, str]] | None = None
) -> list[WorkItem[Any]]:
    batch = _Batch(app_state, carried)
    try:
        for number, call in enumerate(calls):
            batch.take_over(number, call)
        return batch.enter()
    except BaseException:
        batch.give_back()
        raise


def _submit_inside(app_state: BackgroundState, calls: Sequence[BareCall]) -> list[WorkItem[Any]]:
    """Do it inside the app's around functions, which are called for each item.

    Each call has a context of its own: its span is no child of the span of the call before it.
    """
    from flask_background.enqueueing.around_enqueue import (
        Inside,  # imported for apps that have such functions
    )

    entered: list[tuple[Context, Inside]] = []
    carried = []
    try:
        for call in calls:
            context, inside = copy_context(), Inside(app_state, call.callee.name)
            entered.append((context, inside))
            carried.append(context.run(inside.enter))
        items = _submit(app_state, calls, carried)
    except BaseException as refusal:
        for context, inside in entered:
            context.run(inside.leave, None, refusal)
        raise
    for (context, inside), item in zip(entered, items, strict=True):
        context.run(inside.leave, item, None)
    return items


def _refuse_later(number: int, callee: Callee) -> None:
    when = callee.options.when
    if when != "now":
        raise UnsupportedError(
            f'calls[{number}] ({callee.name}) has when="{when}", and a batch is enqueued at once or not at'
            f' all: use {callee.name}.using(when="now"), or enqueue its items one by one'
        )


class _Batch:
    """The calls of one batch, on their way. ``carried``: the trace context of each, or None."""

    def __init__(self, app_state: BackgroundState, carried: Sequence[Mapping[str, str]] | None) -> None:
        self._app_state = app_state
        self._carried = carried
        self._request = request = current_request()
        self._state: RequestState | None
        if request is not None:
            self._state = RequestState._capture(request, app_state.processors)
        else:
            outer = current_item_var.get(None)
            self._state = None if outer is None else outer.state
        self._calls: list[BareCall] = []
        self._moved: dict[int, Moved] = {}
        self._backends: dict[Callee, Backend[Any]] = {}

    def take_over(self, number: int, call: BareCall) -> None:
        """Check the arguments of the next call, and move its uploads. Raises ArgumentError, EnqueueError."""
        callee, app_state = call.callee, self._app_state
        self._find_backend(number, callee)
        try:
            args, kwargs, moved = arguments.take_over(callee.func, call.args, call.kwargs, self._request)
            if moved is not None:
                self._moved[number] = moved
            if app_state.strict and callee.portable:
                check_data(callee, args, kwargs, app_state.settings.max_payload)
        except (ArgumentError, UploadMovedError) as error:
            raise name_call(error, number, callee.name) from error
        self._calls.append(BareCall(callee, args, kwargs))

    def give_back(self) -> None:
        """Give the view its uploads back."""
        for moved in self._moved.values():
            moved.give_back()

    def enter(self) -> list[WorkItem[Any]]:
        """Enter all items."""
        try:
            return self._enter(self._calls)
        except Overflow as full:
            try:
                return self._enter(
                    [self._to_journal(number, call) for number, call in enumerate(self._calls)]
                )
            except ArgumentError as error:
                self._app_state.backend.events.refused(self._calls[0].callee.name, full.refusal)
                raise full.refusal from error

    def _to_journal(self, number: int, call: BareCall) -> BareCall:
        if not self._backends[call.callee].can_retract:
            return call
        durable = call.callee.using(durable=True, fallback=None)
        self._find_backend(number, durable)
        return call._replace(callee=durable)

    def _enter(self, calls: Sequence[BareCall]) -> list[WorkItem[Any]]:
        groups: dict[Backend[Any], list[Entry[Any]]] = {}
        for number, (callee, args, kwargs) in enumerate(calls):
            backend = self._backends[callee]
            item = backend.make_item(callee, args, kwargs, self._state_of(number))
            if callee.describe is not None:
                describe_item(item, callee.describe, self._app_state)
            if (moved := self._moved.get(number)) is not None:
                item._adopt_uploads(moved.own)
            due = None if callee.due is None else callee.due(item._enqueued)
            groups.setdefault(backend, []).append(Entry(item, due, number))
        # A batch that is on disk cannot be taken back, so it comes last.
        ordered = sorted(groups.items(), key=lambda group: not group[0].can_retract)
        accepted: dict[int, WorkItem[Any]] = {}

        def enter_from(index: int) -> None:
            if index < len(ordered):
                backend, entries = ordered[index]
                rest: Callable[[], object] = lambda: enter_from(index + 1)  # noqa: E731
                taken = backend.accept_many(entries, rest)
                accepted.update(zip((entry.number for entry in entries), taken, strict=True))
                for entry, item in zip(entries, taken, strict=True):
                    if item is not entry.item:
                        entry.item._release_arguments()  # the one that has the key runs, with its own

        enter_from(0)
        return [accepted[number] for number in range(len(calls))]

    def _state_of(self, number: int) -> RequestState | None:
        if self._carried is None or not self._carried[number]:
            return self._state
        return (self._state or NO_REQUEST)._with_trace(**self._carried[number])

    def _find_backend(self, number: int, callee: Callee) -> None:
        if callee in self._backends:
            return
        try:
            backend = self._app_state.backend_for(callee)
        except EnqueueError as error:  # the journal cannot be opened
            self._app_state.backend.events.refused(callee.name, error)
            raise
        if not backend.takes_batches:
            raise UnsupportedError(
                f"calls[{number}] ({callee.name}) goes to Celery, which cannot take all items of a batch or"
                f" none: enqueue them one by one, [{callee.name}.enqueue(...) for ...]"
            )
        self._backends[callee] = backend
