"""``when="commit"``: items wait for the database's commit, and are dropped when it is rolled back.

If a view enqueued before its commit, the item would look for rows that do not exist yet. If a view enqueued
after its commit, it could die in between. A waiting item belongs to the innermost transaction of its session,
savepoints included. Between the commit of the database and the following commit of the journal an item is not
durable: if the process is killed there, the item is lost.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import current_app, has_app_context

from flask_background.errors import ConfigurationError

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import Session, SessionTransaction

    from flask_background.core.backend import Backend
    from flask_background.core.item import WorkItem

_KEY = "flask_background.pending"


@dataclass(eq=False, slots=True)
class _Pending:
    """An item that waits, and the savepoints that it was enqueued in."""

    backend: Backend[Any]
    item: WorkItem[Any]
    due: float | None
    savepoints: list[SessionTransaction]


class _Waiting:
    """The items that wait for one session."""

    def __init__(self, session: Session) -> None:
        from sqlalchemy import event

        self.items: list[_Pending] = []
        _all.add(self)
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def _after_commit(self, session: Session) -> None:
        """Remember the transaction as committed; also called when a savepoint is released.

        Nothing may be done with the session here.
        """
        self._committed = session.get_nested_transaction() or session.get_transaction()

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Enqueue the items of a committed transaction, and drop those of any other one.

        A closed session reports no rollback, so every end without a commit counts as one.
        """
        committed, self._committed = self._committed is transaction, None
        if transaction.parent is None:
            items, self.items = self.items, []
            (_enter if committed else _drop)(items)
        elif transaction.nested and not committed:
            undone = [pending for pending in self.items if transaction in pending.savepoints]
            self.items = [pending for pending in self.items if transaction not in pending.savepoints]
            _drop(undone)


_all: weakref.WeakSet[_Waiting] = weakref.WeakSet()


def is_waiting(item: WorkItem[Any]) -> bool:
    """Return whether an item waits for a commit, without which it is not enqueued."""
    return any(pending.item is item for waiting in tuple(_all) for pending in waiting.items)


def hold(app: Flask, backend: Backend[Any], item: WorkItem[Any], due: float | None) -> WorkItem[Any]:
    """Let item wait for the commit of the app's current session. Return it, or the item with the same key.

    Raises ConfigurationError if there is no session, and the errors with which the backend refuses items.
    """
    session = _session_of(app, item.task_name)
    if not session.in_transaction():
        session.begin()  # as Session.add does: a session without a transaction reports no rollback
    accepted = backend.reserve(item)
    if accepted is item:
        waiting = session.info.get(_KEY)
        if waiting is None:
            waiting = session.info[_KEY] = _Waiting(session)
        waiting.items.append(_Pending(backend, item, due, _savepoints_of(session)))
    return accepted


def _session_of(app: Flask, task_name: str) -> Session:
    extension: Any = app.extensions.get("sqlalchemy")
    if extension is None:
        raise ConfigurationError(
            f'{task_name} is enqueued with when="commit", and the app has no database: initialise'
            " Flask-SQLAlchemy or Flask-SQLAlchemy-Lite with it, or leave when out"
        )
    if not has_app_context() or current_app._get_current_object() is not app:  # type: ignore[attr-defined]
        raise ConfigurationError(
            f'{task_name} is enqueued with when="commit" outside of its app\'s context, where there is no'
            " session to wait for: enqueue it in a view, or with app.app_context()"
        )
    session: Any = extension.session
    current: Session = session() if callable(session) else session  # Flask-SQLAlchemy has a scoped session
    return current


def _savepoints_of(session: Session) -> list[SessionTransaction]:
    found = []
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        found.append(transaction)
        transaction = transaction.parent
    return found


def _enter(items: list[_Pending]) -> None:
    """Enqueue all items, even if one is refused; the commit then raises the first refusal."""
    first: BaseException | None = None
    for pending in items:
        try:
            pending.backend.submit_reserved(pending.item, pending.due)
        except BaseException as error:  # a Timeout of gevent, too: the other items are committed as well
            first = first or error
    if first is not None:
        raise first


def _drop(items: list[_Pending]) -> None:
    first: BaseException | None = None
    for pending in items:
        try:
            pending.backend.cancel_held(pending.item, "its transaction was not committed")
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first
