"""Takes a message out of its queue in Redis, and keeps it for the case that the worker dies, in one step.

Kombu takes it first, and has it kept then. Redis may stop between the two, even before its answer is on its
way, and then nobody has the message any more. While all queues are empty it is waited for as kombu does: what
Redis gives out to who waits, it confirms to the sender in the same moment, who sends it again if it does not.
"""

from __future__ import annotations

import time
from typing import Any

from celery.utils.log import get_logger
from kombu.transport import redis as kombu_redis
from redis.exceptions import ResponseError

_log = get_logger(__name__)
_QoS: Any = kombu_redis.QoS
_Empty: Any = kombu_redis.Empty

# How long queues that were found empty are taken to be, in seconds.
_STILL_EMPTY = 0.02

# Gets the keys under which kombu keeps messages, and when, then those of the queues; and the time. What it
# does not understand stays where it is.
_TAKE = """
for i = 3, #KEYS do
    local text = redis.call('LINDEX', KEYS[i], -1)
    if text then
        local is_read, message = pcall(cjson.decode, text)
        local properties = is_read and type(message) == 'table' and message.properties
        local info = type(properties) == 'table' and properties.delivery_info
        if type(info) ~= 'table' or type(properties.delivery_tag) ~= 'string' then return false end
        local where = cjson.encode(info.exchange) .. ',' .. cjson.encode(info.routing_key)
        redis.call('RPOP', KEYS[i])
        redis.call('ZADD', KEYS[2], ARGV[1], properties.delivery_tag)
        redis.call('HSET', KEYS[1], properties.delivery_tag, '[' .. text .. ',' .. where .. ']')
        return {KEYS[i], text}
    end
end
return false
"""


class TakingQoS(_QoS):  # type: ignore[misc]
    """What has been delivered by one channel."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was given out."""
        if getattr(self.channel, "is_kept", False):
            super(_QoS, self).append(message, delivery_tag)
        else:
            super().append(message, delivery_tag)


class Taking:
    """A channel's part in it; comes before a class of kombu's for channels to Redis."""

    #: Whether what Redis is being asked for is kept there.
    is_kept = False
    # When all queues were empty (``time.monotonic()``).
    _empty_at = 0.0
    _runs_scripts = True
    #: Consumers that acknowledge nothing, such as of the answers to a worker that asks who else is there.
    _careless: frozenset[str] = frozenset()

    def basic_consume(self, **options: Any) -> Any:
        """Take messages of a queue from now on."""
        if options["no_ack"]:
            self._careless |= {options["consumer_tag"]}
        return super().basic_consume(**options)  # type: ignore[misc]

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Take no more."""
        self._careless -= {consumer_tag}
        return super().basic_cancel(consumer_tag)  # type: ignore[misc]

    def _brpop_start(self: Any, *timeout: float) -> None:
        is_waiting = time.monotonic() - self._empty_at < _STILL_EMPTY
        self.is_kept = self._runs_scripts and not (self._careless or is_waiting)
        queues = self._queue_cycle.consume(len(self.active_queues)) if self.is_kept else []
        if not queues:
            self.is_kept = False
            super()._brpop_start(*timeout)  # type: ignore[misc]
            return
        names = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        keys = [f"{self.global_keyprefix}{key}" for key in (self.unacked_key, self.unacked_index_key, *names)]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command("EVAL", _TAKE, len(keys), *keys, time.time())

    def _brpop_read(self: Any, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _Empty:
            if self.is_kept:
                self._empty_at = time.monotonic()
            raise
        except ResponseError as error:
            if not self.is_kept:
                raise
            self._runs_scripts = False
            _log.warning("Redis does not give out and keep messages in one step: %s", error)
            raise _Empty from None
        finally:
            self.is_kept = False
