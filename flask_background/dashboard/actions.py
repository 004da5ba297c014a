"""The forms that act, and the page that asks back before many items are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from flask import request
from werkzeug.exceptions import BadRequest, Forbidden, NotFound
from werkzeug.wrappers import Response

from flask_background.core.status import Status
from flask_background.dashboard.filters import FIELDS, Filter
from flask_background.dashboard.text import count, shown
from flask_background.dashboard.visits import Visit
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import Count, ItemQuery, PauseKind


class Action(NamedTuple):
    """A way to change items. ``statuses``: those of the items that it can be done to."""

    verb: str
    past: str
    statuses: frozenset[Status]
    act: Callable[..., int]
    hint: str


_ENDED = frozenset(status for status in Status if status.is_final)
ACTIONS: Mapping[str, Action] = {
    "cancel": Action(
        "Cancel",
        "cancelled, or asked to end",
        frozenset({Status.QUEUED, Status.RUNNING}),
        Monitor.cancel,
        "Queued items end at once. Running items are asked to end.",
    ),
    "retry": Action(
        "Retry",
        "queued again",
        frozenset({Status.FAILED, Status.CANCELLED}),
        Monitor.retry,
        "Failed and cancelled items of the journal run again, with all of their attempts.",
    ),
    "delete": Action(
        "Delete",
        "deleted",
        _ENDED,
        Monitor.delete,
        "Items of the journal that have ended are deleted, with their uploads and results, for good.",
    ),
}
_PLACES = {"tasks", "processes", "schedules", "overview"}


def confirm(visit: Visit, action: str) -> Response:
    """Ask back before all items that a filter selects are changed."""
    if not visit.visitor.is_admin:
        raise Forbidden("You may look, but not act.")
    chosen, wanted = _action(action), _filter()
    queries = _queries(chosen, wanted.query)
    number = visit.monitor.count(queries)
    names = [str(query.status) for query in queries]
    return visit.render(
        "confirm.html",
        action=chosen,
        name=action,
        filter=wanted,
        statuses=" and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])),
        is_any=number != Count(items=0),
        items=_counted(number),
    )


def act_on_items(visit: Visit, action: str) -> Response:
    """Change all items that the filter in the address selects."""
    chosen, wanted = _action(action), _filter()
    try:
        asked_at = datetime.fromisoformat(request.form.get("asked_at", ""))
        query = _asked(wanted.query, asked_at)
    except (TypeError, ValueError):
        raise BadRequest("The form does not say when it was made.") from None
    # Of all statuses, the monitor chooses those that the action is for.
    is_possible = query.status is None or query.status in chosen.statuses
    number = chosen.act(visit.monitor, query, by=visit.by) if is_possible else 0
    values = {name: text for name, text in wanted.values.items() if name != "status"}
    return visit.back(f"{_were(number)} {chosen.past}.", "items", **values)


def act_on_item(visit: Visit, item_id: str, action: str) -> Response:
    """Change one item."""
    chosen = _action(action)
    if chosen.act(visit.monitor, [item_id], by=visit.by):
        message = f"The item was {chosen.past}."
        if action == "delete":
            return visit.back(message, "items")
    else:
        message = f"The item was not {chosen.past}: its status is another by now, or it is in another place."
    return visit.back(message, "item", item_id=item_id)


def run_now(visit: Visit) -> Response:
    """Enqueue an item of a periodic task now."""
    task = request.args.get("task", "")
    try:
        item_id = visit.monitor.run_now(task, by=visit.by)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if item_id is None:
        return visit.back(f"{shown(task)} was not enqueued: an item of it waits already.", "schedules")
    return visit.back(f"{shown(task)} was enqueued.", "item", item_id=item_id)


def change_pause(visit: Visit, action: str) -> Response:
    """Pause or resume a task or an executor."""
    kind, name = request.args.get("kind"), request.args.get("name", "")
    page = request.args.get("page", "")
    if action not in ("pause", "resume") or kind not in ("task", "executor") or page not in _PLACES:
        raise NotFound
    what: PauseKind = "task" if kind == "task" else "executor"
    try:
        if action == "pause":
            changed = visit.monitor.pause(what, name, by=visit.by)
        else:
            changed = visit.monitor.resume(what, name, by=visit.by)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    done = {"pause": "paused", "resume": "resumed"}[action]
    already = "" if changed else " already"
    return visit.back(f"The {what} {shown(name)} was{already} {done}.", page)


def _action(name: str) -> Action:
    if (action := ACTIONS.get(name)) is None:
        raise NotFound
    return action


def _filter() -> Filter:
    """Return the filter in the address. One that is not understood in full selects nothing."""
    if unknown := set(request.args) - set(FIELDS):
        raise BadRequest(
            f"The filter has fields that are not known: {', '.join(sorted(map(shown, unknown)))}."
        )
    wanted = Filter.read(request.args)
    if wanted.errors:
        raise BadRequest(f"The filter is not right. {' '.join(wanted.errors.values())}")
    return wanted


def _asked(query: ItemQuery, at: datetime) -> ItemQuery:
    """Return the query without the items that are enqueued after the number was shown."""
    return replace(query, until=at if query.until is None else min(at, query.until))


def _queries(action: Action, query: ItemQuery) -> list[ItemQuery]:
    statuses = action.statuses if query.status is None else action.statuses & {query.status}
    return [replace(query, status=status) for status in Status if status in statuses]


def _counted(number: Count) -> str:
    if number.is_exact:
        return count(number.items, "item")
    return f"at least {count(number.items, 'item')}" if number.items else "an unknown number of items"


def _were(number: int) -> str:
    return f"{count(number, 'item')} {'was' if number == 1 else 'were'}"
