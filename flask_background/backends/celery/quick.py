"""Redis as Celery's result backend: a record is put there in one question, where Celery asks two or three.

Celery looks first whether a task has succeeded, and tells whoever listens, in a transaction. Neither is
needed of an item that nobody knows yet, or whose record was read just now; one that has succeeded is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def is_quick(celery: Celery) -> bool:
    """Whether this app's result backend is Celery's own for Redis, with or without Sentinel."""
    return type(celery.backend).__module__ == "celery.backends.redis"


def put(celery: Celery, task_id: str, result: Any, state: str, longer: int = 0) -> None:
    """Store a state that is not the last one, for so many seconds longer than Celery. Raises as Celery."""
    _ask(celery, task_id, result, state, longer=longer)


def put_and_look(celery: Celery, task_id: str, result: Any, state: str, other_id: str) -> bool:
    """The same; and then, in the same question, whether there is anything of another id."""
    other = celery.backend.get_key_for_task(other_id)
    return bool(_ask(celery, task_id, result, state, lambda pipe, key, text: pipe.exists(other)))


def put_success(celery: Celery, task_id: str, result: Any) -> None:
    """Store the last state, whatever was there, and tell whoever waits with Celery's own means."""
    now = celery.now().isoformat()
    _ask(celery, task_id, result, "SUCCESS", lambda pipe, key, text: pipe.publish(key, text), now)


def _ask(
    celery: Celery,
    task_id: str,
    result: Any,
    state: str,
    more: Callable[[Any, str, str], object] | None = None,
    done: str | None = None,
    longer: int = 0,
) -> Any:
    """Set the key, and in the same question what ``more`` adds; returns the last answer."""
    backend = celery.backend
    key = backend.get_key_for_task(task_id)
    # As Celery stores it.
    text = backend.encode(
        {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": done,
            "task_id": task_id,
        }
    )
    seconds = backend.expires + longer if backend.expires else None

    def ask() -> Any:
        if more is None:
            return backend.client.set(key, text, ex=seconds)
        with backend.client.pipeline(transaction=False) as pipe:
            pipe.set(key, text, ex=seconds)
            more(pipe, key, text)
            return pipe.execute()[-1]

    try:
        return ask()
    except backend.connection_errors:  # a connection that has ended since it was last used, say
        return backend.ensure(ask, ())
