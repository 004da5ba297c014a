"""Keys of items in a cluster: one value in Redis for each, the id of the item that has it.

It is taken before the item's message is sent, and confirmed after that. What is not confirmed lapses soon:
its process has died in between. A confirmed key is given back when its item ends; should that fail, whoever
wants it finds an item that has ended, and takes it over.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from celery.backends.redis import RedisBackend

from flask_background.concurrency import native
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")
#: Finds the handle of an item by its id, unless that has ended.
Live = Callable[[str], T | None]

# How long a key is kept that nobody gives back and nobody wants, besides its item's delay, in seconds.
_KEPT = 7 * 86_400.0
# What is added to an id until its message has been sent.
_SENDING = "?"

# How much longer than a publish takes a key is held that is not confirmed, and how often somebody looks at it
# who wants it, in seconds.
_LEASE = 10.0
_LOOK = 0.01

# Each gets the key's name, and all but the first the item's id and further values.
_GET = "return redis.call('GET', KEYS[1])"
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[1], ARGV[1] .. '?', 'PX', ARGV[3])
return false
"""
_CONFIRM = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] or holder == ARGV[1] .. '?' then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
"""
_RELEASE = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] or holder == ARGV[1] .. '?' then redis.call('DEL', KEYS[1]) end
"""


class Holder(NamedTuple):
    """Who has a key."""

    value: str

    @property
    def item_id(self) -> str:
        """The item's id."""
        return self.value.removesuffix(_SENDING)

    @property
    def is_sent(self) -> bool:
        """Whether its message has been sent for certain."""
        return not self.value.endswith(_SENDING)


def name_of_key(task_name: str, key: str) -> str:
    """What stands for a task's key everywhere else: what the user has made it of is nobody's business."""
    return hashlib.sha256(f"{task_name}\0{key}".encode(errors="surrogatepass")).hexdigest()


class Keys:
    """The keys in an app's result backend. All of it may raise BrokerError."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    @property
    def works(self) -> bool:
        """Whether the result backend is one that can do this."""
        return isinstance(self._celery.backend, RedisBackend)

    def find(self, name: str, live: Live[T]) -> T | None:
        """Who has the key and has been sent, if that is alive."""
        holder = _holder(self._ask(_GET, name))
        return live(holder.item_id) if holder is not None and holder.is_sent else None

    def take(self, name: str, item_id: str, live: Live[T], timeout: float) -> T | None:
        """Take the key for an item that is to be sent within timeout seconds, or return who has it.

        Raises BrokerError, too, if nobody can say for so long whether who has it was sent.
        """
        lease = int((timeout + _LEASE) * 1000)
        end = time.monotonic() + timeout
        stale = ""
        while (holder := _holder(self._ask(_TAKE, name, item_id, stale, lease))) is not None:
            if holder.is_sent:
                if (other := live(holder.item_id)) is not None:
                    return other
                stale = holder.value
            elif time.monotonic() > end:
                raise BrokerError(
                    f"item {holder.item_id}, which has the same key, is being sent by another process, or"
                    " that has just died"
                )
            else:
                native.Latch().wait(_LOOK)
        return None

    def confirm(self, name: str, item_id: str, delay: float) -> None:
        """The item, due in so many seconds, has been sent. It gets a key that has lapsed meanwhile."""
        self._ask(_CONFIRM, name, item_id, int((delay + _KEPT) * 1000))

    def release(self, name: str, item_id: str) -> None:
        """Give the key back, if the item has it."""
        self._ask(_RELEASE, name, item_id)

    def _ask(self, what: str, name: str, *values: Any) -> bytes | None:
        try:
            backend = self._celery.backend
            where = backend.get_key_for_task(f"{name}.key")
            answer: bytes | None = backend.client.eval(what, 1, where, *values)
        except Exception as error:
            raise BrokerError(f"Celery's result backend cannot be reached: {error}") from error
        return answer


def _holder(value: bytes | None) -> Holder | None:
    return None if value is None else Holder(value.decode())
