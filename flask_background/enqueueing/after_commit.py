"""``when="commit"``: items wait for the database's commit, and are dropped when it is rolled back.

A view that enqueues before it commits would have its item look for rows that are not there yet; one that
enqueues after it may die in between. An item that waits belongs to the innermost transaction of its session,
savepoints included. Of an item's durability nothing can be promised between the two commits, the database's
and then the journal's: a process that is killed there loses it.
"""

from __future__ import annotations

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

    backend: Backend
    item: WorkItem[Any]
    due: float | None
    savepoints: list[SessionTransaction]


class _Waiting:
    """The items that wait for one session."""

    def __init__(self, session: Session) -> None:
        from sqlalchemy import event

        self.items: list[_Pending] = []
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def _after_commit(self, session: Session) -> None:
        """Also called when a savepoint is released. Nothing may be done with the session here."""
        self._committed = session.get_nested_transaction() or session.get_transaction()

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        """However it ended: a session that is closed says nothing of a rollback."""
        committed, self._committed = self._committed is transaction, None
        if transaction.parent is None:
            items, self.items = self.items, []
            (_enter if committed else _drop)(items)
        elif transaction.nested and not committed:
            undone = [pending for pending in self.items if transaction in pending.savepoints]
            self.items = [pending for pending in self.items if transaction not in pending.savepoints]
            _drop(undone)


def hold(app: Flask, backend: Backend, item: WorkItem[Any], due: float | None) -> WorkItem[Any]:
    """Let item wait for the commit of the app's current session. Returns it, or the one that has its key.

    Raises ConfigurationError if there is no session, and what the backend refuses items with.
    """
    session = _session_of(app, item.task_name)
    if not session.in_transaction():
        session.begin()  # as Session.add does; a session without one tells nothing of a rollback
    accepted = backend.hold(item)
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
    current: Session = session() if callable(session) else session  # Flask-SQLAlchemy's is a scoped one
    return current


def _savepoints_of(session: Session) -> list[SessionTransaction]:
    found = []
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        found.append(transaction)
        transaction = transaction.parent
    return found


def _enter(items: list[_Pending]) -> None:
    """All of them, also if one of them is refused; the commit then raises the first refusal."""
    first: BaseException | None = None
    for pending in items:
        try:
            pending.backend.enter(pending.item, pending.due)
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def _drop(items: list[_Pending]) -> None:
    for pending in items:
        pending.backend.drop(pending.item, "its transaction was not committed")
