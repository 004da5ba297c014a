"""The commands that change items, one by one or all that options select: cancel, retry and purge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import click

from flask_background.cli.base import json_option, monitor_command, nothing_done, operator
from flask_background.cli.fields import print_json
from flask_background.cli.filters import as_span, described, selects
from flask_background.cli.formatting import printable, say, warn
from flask_background.core.status import Status
from flask_background.monitoring.snapshots import Count, ItemQuery

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor

_LIVE = (Status.QUEUED, Status.RUNNING)
_NOT_DONE = (Status.FAILED, Status.CANCELLED)
_ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@monitor_command("cancel")
@_ids
@selects(_LIVE)
@_yes
@json_option
def cancel(monitor: Monitor, ids: tuple[str, ...], query: ItemQuery | None, yes: bool, as_json: bool) -> None:
    """Cancel queued items, and ask running ones to end: the items with these IDs, or all selected items."""
    action = _Action(monitor, monitor.cancel, "cancel", "cancelled", _LIVE)
    action.perform(ids, query, yes, as_json)


@monitor_command("retry")
@_ids
@selects(_NOT_DONE)
@_yes
@json_option
def retry(monitor: Monitor, ids: tuple[str, ...], query: ItemQuery | None, yes: bool, as_json: bool) -> None:
    """Run items again that failed or were cancelled: the items with these IDs, or all selected items."""
    action = _Action(monitor, monitor.retry, "retry", "retried", _NOT_DONE)
    action.perform(ids, query, yes, as_json)


@monitor_command("purge")
@_ids
@selects(_ENDED)
@click.option(
    "--older-than", metavar="SPAN", callback=as_span, help='Only items that ended longer ago, as in "7d".'
)
@_yes
@json_option
def purge(
    monitor: Monitor,
    ids: tuple[str, ...],
    query: ItemQuery | None,
    older_than: timedelta | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete items that have ended: the items with these IDs, all selected items, or all."""
    if older_than is not None:
        query = replace(query or ItemQuery(), ended_before=datetime.now(UTC) - older_than)
    elif query is None and not ids:
        query = ItemQuery()
    action = _Action(monitor, monitor.delete, "purge", "purged", _ENDED)
    action.perform(ids, query, yes, as_json)


class _Action(NamedTuple):
    """The work of a command. ``allowed``: the statuses of the items that the command can act on."""

    monitor: Monitor
    act: Callable[..., int]
    verb: str
    done: str
    allowed: Sequence[Status]

    def perform(self, ids: Sequence[str], query: ItemQuery | None, yes: bool, as_json: bool) -> None:
        """Act on the items, tell how many there were, and end with status 1 if there was none."""
        if (query is None) is not bool(ids):
            raise click.UsageError('give either IDs, or options that select items, such as --task "mail.*"')
        count = sum(map(self._one, ids)) if query is None else self._all(query, yes)
        if as_json:
            print_json({self.done: count})
        elif count or query is not None:
            also = ", or asked to end" if Status.RUNNING in self.allowed else ""
            say(f"{_items(count)} {self.done}{also}")
        if not count:
            raise nothing_done()

    def _one(self, item_id: str) -> bool:
        """Act on one item; tell why if that is not possible, and return whether it was."""
        item = self.monitor.get(item_id)
        if item is not None and self.act([item_id], by=operator()):
            return True
        warn(f"Error: item {item_id}: {'it is not known' if item is None else f'it is {item.status}'}")
        return False

    def _all(self, query: ItemQuery, yes: bool) -> int:
        """Act on all items that a query selects, once the user has agreed to their number."""
        if not yes:
            statuses = self.allowed if query.status is None else [query.status]
            count = self.monitor.count([replace(query, status=status) for status in statuses])
            if count == Count(items=0):
                return 0
            question = f"{self.verb.capitalize()} {_counted(count)} ({described(query)})?"
            click.confirm(printable(question), abort=True, err=True)
        return self.act(query, by=operator())


def _counted(count: Count) -> str:
    if count.is_exact:
        return _items(count.items)
    return f"at least {_items(count.items)}" if count.items else "an unknown number of items"


def _items(count: int) -> str:
    return f"{count:,} item{'s'[: count != 1]}"
