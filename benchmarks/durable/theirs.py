"""The other queues, with their own defaults except where a line says so."""

from __future__ import annotations

from typing import Any

from . import work
from .base import Place, Queue


class Huey(Queue):
    """SqliteHuey with fsync on. Its consumer has two worker processes."""

    name = "SqliteHuey"
    processes = 1

    def __init__(self, place: Place) -> None:
        from huey import SqliteHuey

        super().__init__(place)
        # The time-out for 64 threads that write: by default some of them fail.
        self._huey = SqliteHuey("items", filename=str(place.folder / "huey.sqlite3"), fsync=True, timeout=60)
        self._task = self._huey.task()(work.tell)

    def enqueue(self, argument: str) -> Any:
        return self._task(argument)

    def consume(self) -> None:
        # By default an idle worker looks only every 10 s.
        self._huey.create_consumer(workers=2, worker_type="process", max_delay=0.1).run()

    def close(self) -> None:
        self._huey.storage.close()


class Celery(Queue):
    """Celery on Redis, without a result backend. Its worker has two processes."""

    name = "Celery + Redis"
    processes = 1

    def __init__(self, place: Place) -> None:
        import celery

        super().__init__(place)
        self._celery = celery.Celery("benchmarks", broker=place.redis_url)
        self._task = self._celery.task(name="tell")(work.tell)

    def enqueue(self, argument: str) -> Any:
        return self._task.delay(argument)

    def consume(self) -> None:
        self._celery.worker_main(["worker", "--concurrency", "2", "--loglevel", "ERROR"])

    def close(self) -> None:
        self._celery.close()


class Rq(Queue):
    """RQ. Each of its two workers forks for every item."""

    name = "RQ + Redis"
    part = 0.05

    def __init__(self, place: Place) -> None:
        import redis
        import rq

        super().__init__(place)
        self._redis = redis.Redis.from_url(place.redis_url)
        self._queue = rq.Queue(connection=self._redis)

    def enqueue(self, argument: str) -> Any:
        return self._queue.enqueue(work.tell, argument)

    def consume(self) -> None:
        import rq

        rq.Worker([self._queue], connection=self._redis).work(logging_level="ERROR")

    def close(self) -> None:
        self._redis.close()
