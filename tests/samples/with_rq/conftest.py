"""The app on a real Redis, a worker in the test's process, and time that passes for scheduled jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job

from .app import create_app


class Jobs:
    """The jobs of the app."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._passed = 0.0

    def run(self) -> None:
        """Run what waits, each job once."""
        worker = SimpleWorker(
            [self.queue], connection=self.queue.connection, serializer=self.queue.serializer
        )
        worker.work(burst=True, logging_level="ERROR")

    def run_due(self, after: timedelta) -> None:
        """Let time pass, and run what is due then."""
        self._passed += after.total_seconds()
        registry = self.queue.scheduled_job_registry
        for job_id in registry.get_jobs_to_enqueue(int(time.time() + self._passed)):
            registry.remove(job_id)
            self.queue.enqueue_job(self.fetch(job_id))
        self.run()

    def fetch(self, job_id: str) -> Job:
        """A job."""
        return Job.fetch(job_id, connection=self.queue.connection, serializer=self.queue.serializer)

    def calls(self) -> list[tuple[str, list[Any]]]:
        """What was enqueued to run at once."""
        return [(job.func_name.rpartition(".")[2], job.args) for job in self.queue.jobs]

    def check(self) -> None:
        """Fail if a job has failed."""
        failed = [self.fetch(job_id).func_name for job_id in self.queue.failed_job_registry.get_job_ids()]
        assert not failed, f"{failed} failed"


@pytest.fixture
def app(redis: Any) -> Iterator[Flask]:
    """The app, with an empty Redis."""
    connection = Redis.from_url(redis.url)
    connection.flushall()
    yield create_app(connection)
    connection.close()


@pytest.fixture(autouse=True)
def jobs(app: Flask) -> Iterator[Jobs]:
    """The jobs of the test, none of which may fail."""
    jobs = Jobs(app.extensions["queue"])
    yield jobs
    jobs.check()
