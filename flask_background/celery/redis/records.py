"""Redis as Celery's result backend: a record is put there in one question, where Celery asks two or three.

Celery looks first whether a task has succeeded, and tells whoever listens, in a transaction. Neither is
needed of an item that nobody knows yet, or whose record was read just now; one that has succeeded is told.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask_background.celery.redis.connection import ask, surely
from flask_background.payload.tagged_json import encode

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

# Gets the key of a task, what is to be there, and for how long; tells that to who listens.
_END = """
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
"""


# What Celery takes a task for that nothing is stored for.
_UNKNOWN = {"status": "PENDING", "result": None}


def is_quick(celery: Celery) -> bool:
    """Whether this app's result backend is Celery's own for Redis, with or without Sentinel."""
    return type(celery.backend).__module__ == "celery.backends.redis"


def put(celery: Celery, task_id: str, result: Any, state: str, longer: int = 0) -> None:
    """Store a state that is not the last one, for so many seconds longer than Celery. Raises as Celery."""
    backend = celery.backend
    key, text = backend.get_key_for_task(task_id), text_of(celery, task_id, result, state)
    seconds = backend.expires + longer if backend.expires else None
    surely(backend, lambda client: client.set(key, text, ex=seconds))


def text_of(celery: Celery, task_id: str, result: Any, state: str, done: str | None = None) -> bytes:
    """What is stored for a task, as Celery has it."""
    meta = {
        "status": state,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": done,
        "task_id": task_id,
    }
    backend = celery.backend
    if backend.serializer == "json" and not getattr(backend, "compression", None):
        return encode(meta).encode()  # what Celery's own encoder gives, at a third of the price
    payload = backend.encode(meta)
    return payload if isinstance(payload, bytes) else payload.encode()


def read(celery: Celery, task_id: str) -> bytes | None:
    """What is stored for a task."""
    backend = celery.backend
    key = backend.get_key_for_task(task_id)
    text: bytes | None = ask(backend, lambda client: client.get(key))
    return text


def meaning(celery: Celery, text: bytes | None) -> dict[str, Any]:
    """What Celery knows by what is stored for a task."""
    meta: dict[str, Any] = celery.backend.decode_result(text) if text else _UNKNOWN
    return meta


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
    answer = surely(backend, lambda client: client.eval(_EXCHANGE, 2, *keys, *values))
    return None if answer < 0 else bool(answer)


def put_success(celery: Celery, task_id: str, result: Any) -> None:
    """Store the last state, whatever was there, and tell whoever waits with Celery's own means."""
    backend = celery.backend
    text = text_of(celery, task_id, result, "SUCCESS", datetime.now(UTC).isoformat())
    values = backend.get_key_for_task(task_id), text, int(backend.expires or 0)
    surely(backend, lambda client: client.eval(_END, 1, *values))
