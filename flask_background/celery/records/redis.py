"""Records in Redis: compared and exchanged there in one step, and listed while their items are in flight."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from flask_background.celery.app import SHARE_OF_A_WAIT
from flask_background.celery.records import scripts
from flask_background.celery.records.base import LOST_AFTER, Records, RunId, reaching
from flask_background.celery.records.connection import borrowed, client_of, key_prefix
from flask_background.celery.records.record import Record
from flask_background.concurrency import native
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.core.settings import Settings

#: How many items one look of the reconciler takes.
MOST = 100
#: After how many seconds a message that was passed over counts as lost.
OLD = 5.0

# How long a reconciler keeps others away, in ms: for two looks. Then another worker goes on.
_LOCK = 1000
# How long one blocking read waits for an item's end (seconds), and how many of a process do at the same time.
_READ = 1.0
_READERS = 32
# For how long it is taken for certain what time it is in Redis, in seconds.
_CLOCK = 60.0
# Between two looks of all workers together lies no more than this while all is well, in seconds; and how long
# runs have after a longer gap to show that they are alive: five times as long as they take for that.
_GAP, _STEADY = 2.5, 2.5
# All of a record but the arguments, which may be large.
_FIELDS = tuple(name for name in Record._fields if name != "payload")


class Findings(NamedTuple):
    """The work that the reconciler has found."""

    #: The time in Redis, in seconds.
    now: float
    #: Items for which a message is to be sent.
    due: Sequence[str] = ()
    #: Runs without a sign of life.
    lost: Sequence[RunId] = ()
    #: The queues with old messages.
    old: Sequence[str] = ()
    #: By queue, when the latest of the items was sent that have started.
    progress: Mapping[str, float] = MappingProxyType({})


class RedisRecords(Records):
    """The records of an app's items, by connections of its own, which a forked process does not share."""

    is_full = True

    def __init__(self, celery: Celery, settings: Settings) -> None:
        wait = settings.publish_timeout * SHARE_OF_A_WAIT
        self._wait = wait
        self._client = client_of(celery, wait)
        #: This process' clock (``time.monotonic()``) and Redis', when they were compared last.
        self._clock: tuple[float, float] | None = None
        self._readers = client_of(celery, wait, _READ + wait, _READERS)
        self._prefix = f"{key_prefix(celery)}flask-background:"
        self._keep = math.ceil(settings.keep) or 1
        self._put_sha = self._client.register_script(scripts.PUT).sha

    def put(self, item_id: str, record: Record, *, message_follows: bool) -> str | None:
        for _ in range(2):
            values = self._values_of(item_id, record, message_follows=message_follows)
            holder: str | None = self._ask(scripts.PUT, *values)
            if holder != "late":
                return holder
            self._clock = None  # Redis' clock was set, or this process could not go on
        raise BrokerError("Celery's result backend has not answered in time")

    @contextmanager
    def putting(self, item_id: str, record: Record) -> Iterator[None]:
        """Send the question, and read the answer when the caller is done.

        Redis has the record before a worker asks for it. If not, as when a packet was lost, the worker leaves
        the message alone, and the item gets another one.
        """
        values = self._values_of(item_id, record, message_follows=True)
        with reaching(), borrowed(self._client) as connection:
            connection.send_command("EVALSHA", self._put_sha, 0, self._prefix, *values)
            yield
            try:
                is_put = connection.read_response() is None
            except (RedisConnectionError, NoScriptError):
                is_put = False  # Redis was started anew
        if not is_put:
            self.put(item_id, record, message_follows=True)

    def withdraw(self, item_id: str) -> bool:
        return bool(self._ask(scripts.WITHDRAW, item_id))

    def read(self, item_id: str) -> Record | None:
        with reaching():
            texts: Any = self._client.hmget(f"{self._prefix}item:{item_id}", _FIELDS)
        return _record_of(texts)

    def claim(self, run: RunId, limit: float | None, sent: Record | None) -> Record | None:
        found = self._ask(scripts.CLAIM, *run, LOST_AFTER, "" if limit is None else limit)
        return Record.of_fields(dict(_pairs(found))) if found else None

    def defer(self, item_id: str) -> None:
        self._ask(scripts.DEFER, item_id)

    def settle(
        self,
        run: RunId,
        status: Status,
        due: float | None = None,
        *,
        only_if_silent: bool = False,
        **fields: Any,
    ) -> bool:
        given = {"status": status, **fields}
        texts = [text for name, value in given.items() if value is not None for text in (name, str(value))]
        again = "" if status.is_final else due or 0
        return bool(self._ask(scripts.SETTLE, *run, int(only_if_silent), self._keep, again, *texts))

    def report(self, run: RunId, progress: str) -> None:
        self._ask(scripts.REPORT, *run, progress)

    def cancel(self, item_id: str, *, force: bool = False) -> Literal["cancelled", "asked"] | None:
        return self._ask(scripts.CANCEL, item_id, self._keep, int(force))  # type: ignore[no-any-return]

    def beat(self, runs: Sequence[RunId], *, is_stopping: bool) -> list[bool]:
        pairs = [text for run in runs for text in run]
        return list(map(bool, self._ask(scripts.BEAT, LOST_AFTER, int(is_stopping), *pairs)))

    def wait_for_end(self, item_id: str, seconds: float) -> bool:
        name = f"{self._prefix}end:{item_id}"
        try:
            self._readers.brpoplpush(name, name, min(seconds, _READ))  # it stays there for other readers
        except Exception:  # too many of them, or Redis is away: whoever looks next hears of that
            native.Latch().wait(min(seconds, _READ / 10))
        return True

    def in_flight(self, home: str, limit: int) -> list[tuple[str, Record]]:
        with reaching():
            sets = self._sets_of(home)
            pipeline: Any = self._client.pipeline(transaction=False)
            for name in sets:
                pipeline.zrevrange(name, 0, limit - 1)
            ids = list(dict.fromkeys(item_id for found in pipeline.execute() for item_id in found))
            pipeline = self._client.pipeline(transaction=False)
            for item_id in ids:
                pipeline.hmget(f"{self._prefix}item:{item_id}", _FIELDS)
            records = [_record_of(texts) for texts in pipeline.execute()] if ids else []
        found = [(one, record) for one, record in zip(ids, records, strict=True) if record is not None]
        return sorted(found, key=lambda entry: (entry[1].enqueued, entry[0]), reverse=True)

    def count_in_flight(self, home: str) -> dict[Status, int]:
        with reaching():
            pipeline: Any = self._client.pipeline(transaction=False)
            for name in self._sets_of(home):
                pipeline.zcard(name)
            running, *queued = pipeline.execute()
        return {Status.QUEUED: sum(queued), Status.RUNNING: running}

    def _sets_of(self, home: str) -> list[str]:
        """The sets of an app's items in flight, first that of the running ones."""
        queues: Any = self._client.smembers(f"{self._prefix}{home}:queues")
        start = f"{self._prefix}{home}:"
        return [f"{start}runs", f"{start}due", *(f"{start}sent:{queue}" for queue in sorted(queues))]

    # For the reconciler.

    def look(self, home: str, who: str) -> Findings:
        """Find the work that the items of an app need; none if another process than ``who`` does it."""
        now, *found = self._ask(scripts.LOOK, home, who, _LOCK, MOST, OLD, _GAP, _STEADY)
        if not found:
            return Findings(float(now))
        due, lost, old, progress = found
        runs = [RunId(*pair) for pair in _pairs(lost)]
        return Findings(float(now), due, runs, old, {queue: float(sent) for queue, sent in _pairs(progress)})

    def sent_before(self, home: str, queue: str, at: float) -> list[str]:
        """The queued items whose message went through a queue before then, oldest first."""
        with reaching():
            name = f"{self._prefix}{home}:sent:{queue}"
            ids: Any = self._client.zrangebyscore(name, "-inf", f"({at}", 0, MOST)
        return list(ids)

    def next_message(self, item_id: str, home: str, where: str) -> tuple[Record, bool] | None:
        """The record of an item that was found in this set of its home's, if its message is to be sent now.

        With it comes whether the message goes before those that wait, as the item has had its turn.
        """
        found = self._ask(scripts.SEND, item_id, home, where, *_FIELDS)
        if found is None:
            return None
        known = {name: text for name, text in zip(_FIELDS, found[1], strict=True) if text is not None}
        return Record.of_fields(known), bool(found[0])

    def release(self, home: str, who: str) -> None:
        """Let another process look after the items at once."""
        with reaching():
            name = f"{self._prefix}{home}:reconciler"
            if self._client.get(name) == who:
                self._client.delete(name)

    def holder(self, key: str) -> str | None:
        """The id of the item that has a key, by the name that stands for it."""
        with reaching():
            item_id: Any = self._client.get(f"{self._prefix}key:{key}")
        return None if item_id is None else str(item_id)

    def _values_of(self, item_id: str, record: Record, *, message_follows: bool) -> list[Any]:
        where = item_id, record.home, record.queue, record.key or "", int(message_follows), record.due or 0
        fields = [text for pair in record.as_fields().items() for text in pair]
        return [*where, self._now() + self._wait, *fields]

    def _now(self) -> float:
        """The time by Redis' clock, as far as it is known here."""
        mine = time.monotonic()
        if self._clock is None or mine - self._clock[0] > _CLOCK:
            with reaching():
                seconds, micros = self._client.time()
            mine = time.monotonic()
            self._clock = mine, float(seconds) + micros / 1e6
        return self._clock[1] + mine - self._clock[0]

    def _ask(self, script: str, *values: Any) -> Any:
        with reaching():
            return self._client.register_script(script)(args=(self._prefix, *values))


def _record_of(texts: Sequence[str | None]) -> Record | None:
    known = {name: text for name, text in zip(_FIELDS, texts, strict=True) if text is not None}
    return Record.of_fields(known) if "status" in known else None


def _pairs(flat: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)
