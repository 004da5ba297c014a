"""Redis as Celery's result backend: a record is put there in one question, where Celery asks two or three.

Celery looks first whether a task has succeeded, and tells whoever listens, in a transaction. Neither is
needed of an item that nobody knows yet, or whose record was read just now; one that has succeeded is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


# Gets the keys of a task and of another one, what was seen, what is to be there, and for how long. It may be
# asked twice: the first answer may have been lost.
_EXCHANGE = """
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] and found ~= ARGV[2] then return -1 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return redis.call('EXISTS', KEYS[2])
"""


def is_quick(celery: Celery) -> bool:
    """Whether this app's result backend is Celery's own for Redis, with or without Sentinel."""
    return type(celery.backend).__module__ == "celery.backends.redis"


def put(celery: Celery, task_id: str, result: Any, state: str, longer: int = 0) -> None:
    """Store a state that is not the last one, for so many seconds longer than Celery. Raises as Celery."""
    _ask(celery, task_id, result, state, longer=longer)


def text_of(celery: Celery, task_id: str, result: Any, state: str, done: str | None = None) -> bytes:
    """What is stored for a task, as Celery has it."""
    payload = celery.backend.encode(
        {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": done,
            "task_id": task_id,
        }
    )
    return payload if isinstance(payload, bytes) else payload.encode()


def read(celery: Celery, task_id: str) -> tuple[dict[str, Any], bytes | None]:
    """What Celery knows of a task, and the text that says so."""
    backend = celery.backend
    text: bytes | None = backend.get(backend.get_key_for_task(task_id))
    meta: dict[str, Any] = backend.decode_result(text) if text else {"status": "PENDING", "result": None}
    return meta, text


def exchange(
    celery: Celery, task_id: str, seen: bytes | None, result: Any, state: str, other_id: str
) -> bool | None:
    """Store a state that is not the last one in the place of the text that was seen.

    Returns None if there is another one by now; else whether there is anything of the other id.
    """
    backend = celery.backend
    keys = backend.get_key_for_task(task_id), backend.get_key_for_task(other_id)
    text = text_of(celery, task_id, result, state)
    values = seen or b"", text, int(backend.expires or 0)
    answer = _surely(backend, lambda: backend.client.eval(_EXCHANGE, 2, *keys, *values))
    return None if answer < 0 else bool(answer)


def put_success(celery: Celery, task_id: str, result: Any) -> None:
    """Store the last state, whatever was there, and tell whoever waits with Celery's own means."""
    now = celery.now().isoformat()
    _ask(celery, task_id, result, "SUCCESS", lambda pipe, key, text: pipe.publish(key, text), now)


def _ask(
    celery: Celery,
    task_id: str,
    result: Any,
    state: str,
    more: Callable[[Any, str, bytes], object] | None = None,
    done: str | None = None,
    longer: int = 0,
) -> Any:
    """Set the key, and in the same question what ``more`` adds; returns the last answer."""
    backend = celery.backend
    key = backend.get_key_for_task(task_id)
    text = text_of(celery, task_id, result, state, done)
    seconds = backend.expires + longer if backend.expires else None

    def ask() -> Any:
        if more is None:
            return backend.client.set(key, text, ex=seconds)
        with backend.client.pipeline(transaction=False) as pipe:
            pipe.set(key, text, ex=seconds)
            more(pipe, key, text)
            return pipe.execute()[-1]

    return _surely(backend, ask)


def _surely(backend: Any, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except backend.connection_errors:  # a connection that has ended since it was last used, say
        return backend.ensure(ask, ())
