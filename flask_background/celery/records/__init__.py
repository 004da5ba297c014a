"""The records of items, which every process can read: in Redis, or in another result backend of Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_background.celery.records.base import Records

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.core.settings import Settings

_REDIS = ("redis", "rediss", "redis+socket", "sentinel")


def is_redis(celery: Celery) -> bool:
    """Whether Celery keeps its results in Redis, so that the records lie there too."""
    return str(celery.conf.result_backend).partition("://")[0] in _REDIS


def records_of(celery: Celery, settings: Settings) -> Records:
    """The records of the items that an app sends to this Celery."""
    if is_redis(celery):
        from flask_background.celery.records.redis import RedisRecords  # with redis-py

        return RedisRecords(celery, settings)
    from flask_background.celery.records.results import ResultRecords

    return ResultRecords(celery, settings)
