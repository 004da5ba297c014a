"""The backends that a contract's tests are run over.

Celery's items go through a real Redis, or RabbitMQ, to a real worker. It is in this process, for the tests'
functions are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_background import Task, current_item

from ..helpers import BOUND, Site, until


class Shop:
    """An app whose tasks all go to one backend."""

    def __init__(self, site: Site, backend: str) -> None:
        self.site = site
        self.app = site.app
        self.background = site.background
        self.durable = backend == "durable"
        self.immediate = backend == "immediate"
        self.worker: Any = None

    def task(self, func: Callable[..., Any], name: str = "shop.work", **options: Any) -> Task[..., Any]:
        """A task of func."""
        options = {"durable": self.durable, "backend": "immediate" if self.immediate else None, **options}
        return self.background.task(name=name, **options)(func)

    def holding(self, gate: threading.Event, **options: Any) -> Task[..., Any]:
        """A task that waits for the gate or its token, and returns its argument."""

        def hold(value: Any = None) -> Any:
            until(lambda: gate.is_set() or current_item.token.cancelled)
            current_item.token.raise_if_cancelled()
            return value

        return self.task(hold, "shop.hold", **options)


# What is enqueued waits there, while the test goes on. The rest of the promises hold everywhere.
WAITING = ("memory", "durable")
CELERY = ("celery", "rabbitmq")
everywhere = pytest.mark.parametrize("shop", [*WAITING, "immediate", *CELERY], indirect=True)
in_process = pytest.mark.parametrize("shop", WAITING, indirect=True)
but_celery = pytest.mark.parametrize("shop", [*WAITING, "immediate"], indirect=True)
but_immediate = pytest.mark.parametrize("shop", [*WAITING, *CELERY], indirect=True)


@pytest.fixture(params=WAITING)
def shop(request: pytest.FixtureRequest, make_site: Callable[..., Site], tmp_path: Path) -> Iterator[Shop]:
    """An app with two threads."""
    settings: dict[str, Any] = {"BACKGROUND_WORKERS": 2, "BACKGROUND_JOURNAL": tmp_path / "journal"}
    if request.param not in CELERY:
        yield Shop(make_site(**settings), request.param)
        return
    from celery.contrib.testing.worker import start_worker
    from celery.signals import worker_shutdown
    from kombu.asynchronous import set_event_loop

    redis = request.getfixturevalue("redis")
    redis.forget_all()
    celery = {"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}
    if request.param == "rabbitmq":
        rabbit = request.getfixturevalue("rabbit")
        rabbit.forget_all()
        celery["broker_url"] = rabbit.url
    celery["worker_hijack_root_logger"] = False  # it is pytest's
    shop = Shop(
        make_site(
            BACKGROUND_BACKEND="celery",
            BACKGROUND_CELERY=celery,
            BACKGROUND_PUBLISH_TIMEOUT=BOUND,
            **settings,
        ),
        "celery",
    )
    options = {"pool": "threads", "concurrency": 2, "perform_ping_check": False, "shutdown_timeout": BOUND}
    set_event_loop(None)  # the last worker's
    # It looks whether it is to end when something happens, if only its own heartbeat.
    options |= {"without_heartbeat": False, "heartbeat_interval": 0.2}
    with start_worker(shop.app.extensions["celery"], loglevel="WARNING", **options) as shop.worker:
        yield shop
    worker_shutdown.send(sender=shop.worker)  # as a worker does that is a process of its own
