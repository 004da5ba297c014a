"""``fallback="local"``: where Celery cannot be reached, items in memory run where they were enqueued."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_background import Background, Status, current_item, signals
from flask_background.app_state import state_of
from flask_background.errors import BrokerError, ConfigurationError, ItemCancelledError, QueueFull, Stopping

from ..helpers import BOUND, Site, lines, receiving, slack, until
from . import shop
from .conftest import Redis, Worker

pytestmark = pytest.mark.usefixtures("redis_returns")


@pytest.fixture
def publish_timeout() -> float:
    """Processes wait for Celery as long as by default."""
    return 2.0


@pytest.fixture
def make_lone_site(redis: Redis, make_site: Callable[..., Site]) -> Callable[..., Site]:
    """Makes apps whose Celery is lost."""
    redis.stop()

    def make(**settings: Any) -> Site:
        celery = {"broker_url": f"{redis.url}/0", "result_backend": f"{redis.url}/1"}
        return make_site(BACKGROUND_BACKEND="celery", BACKGROUND_CELERY=celery, **settings)

    return make


@pytest.fixture
def lone(make_lone_site: Callable[..., Site]) -> Iterator[Site]:
    """Such an app, in its context."""
    site = make_lone_site()
    with site.app.app_context():
        yield site


def test_runs_here(lone: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The item runs in this process, and sees what it would see in a worker; the log says once why."""
    seen: list[Any] = []

    @lone.background.task(fallback="local", max_attempts=2, backoff=0)
    def look(value: dict[str, Any]) -> Any:
        seen.append((current_item.id, current_item.attempt, current_item.state.path))
        current_item.report_progress(1, 2)
        if current_item.attempt == 1:
            raise OSError("not yet")
        return value

    with (
        receiving(signals.item_enqueued, lone.app) as enqueued,
        receiving(signals.item_finished, lone.app) as finished,
        lone.app.test_request_context("/cart"),
    ):
        item = look.enqueue({"a": (1, 2)})
        assert lone.background.get(item.id) is item
        assert item.result(BOUND) == {"a": (1, 2)}
    assert seen == [(item.id, 1, "/cart"), (item.id, 2, "/cart")]
    assert (item.status, item.attempt, item.progress) == (Status.SUCCEEDED, 2, (1, 2, None))
    assert enqueued == finished == [{"item": item}]
    assert lone.background.items() == [item]
    began = time.monotonic()
    with lone.app.test_request_context("/cart"):
        items = [look.using(max_attempts=1).enqueue({}) for _ in range(20)]
    assert time.monotonic() - began < 2.0 + slack()
    assert all(isinstance(item.exception(BOUND), OSError) for item in items)
    assert lone.background.wait_idle(BOUND)
    assert sum("cannot be reached: until" in line for line in lines(caplog)) == 1


def test_a_coroutine_awaits_it(lone: Site) -> None:
    """A coroutine awaits the item like any other item of this process."""

    @lone.background.task(fallback="local")
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0.01)
        return a + b

    async def view() -> int:
        return await add.enqueue(1, 2)

    assert asyncio.run(view()) == 3


def test_limits_hold(make_lone_site: Callable[..., Site], gate: threading.Event) -> None:
    """The limit of queued items holds, queued ones can be cancelled, and a stop waits for the running one."""
    site = make_lone_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=2)

    @site.background.task(fallback="local")
    def hold() -> str | None:
        until(lambda: gate.is_set() or current_item.token.cancelled)
        return current_item.token.reason and current_item.token.reason.value

    with site.app.app_context():
        running = hold.enqueue()
        until(lambda: running.status is Status.RUNNING)
        waiting = [hold.enqueue() for _ in range(2)]
        with receiving(signals.item_refused, site.app) as refused, pytest.raises(QueueFull):
            hold.enqueue()
        assert len(refused) == 1
        assert not running.wait(0.05)
        assert waiting[0].cancel()
        with pytest.raises(ItemCancelledError):
            waiting[0].result(0)
        assert hold.using(timeout=0.1).enqueue().status is Status.QUEUED
        assert site.background.stop(BOUND) == []
        assert running.result(0) == "shutdown"
        with pytest.raises(Stopping):
            hold.enqueue()


def test_later_and_with_the_response(lone: Site) -> None:
    """An item that waits for the response or a delay runs here, too, under the handle that the view got."""
    items: list[Any] = []

    @lone.background.task(fallback="local")
    def work() -> float:
        return time.time()

    @lone.app.get("/")
    def view() -> str:
        items.append(work.using(when="response").enqueue())
        return "done"

    with receiving(signals.item_enqueued, lone.app) as enqueued:
        with lone.app.test_client().get("/"):
            assert not items[0].wait(0.05)
        assert items[0].result(BOUND) > 0
        assert lone.background.get(items[0].id) is items[0]
        late = work.using(delay=0.2).enqueue()
        assert late.result(BOUND) - late.enqueued_at.timestamp() >= 0.2
    assert enqueued == [{"item": item} for item in (items[0], late)]


def test_broker_returns(
    make_app: Callable[..., Flask],
    redis: Redis,
    make_worker: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Items go to Celery again when it returns; those of tasks without a fallback try it all the time."""
    monkeypatch.setenv("SHOP_NOTES", str(tmp_path / "notes"))
    task = shop.look_around.using(fallback="local")
    worker = make_worker()
    worker.wait_until_ready()
    with make_app().app_context():  # which waits for Redis no longer than by default
        assert task.enqueue().result(BOUND)["pid"] in worker.children
        redis.pause()
        began = time.monotonic()
        here = task.enqueue()
        assert time.monotonic() - began < 2.5 + slack()
        assert here.result(BOUND)["id"] == here.id
        with pytest.raises(BrokerError):
            shop.look_around.enqueue()
        redis.resume()
        assert not redis.keys(1, f"*{here.id}*")  # nor does it run there, too
        assert shop.look_around.enqueue().result(BOUND)["pid"] in worker.children
        assert task.enqueue().result(BOUND)["pid"] in worker.children


def test_worker_has_no_fallback(lone: Site) -> None:
    """A Celery worker refuses an item that would end with its child process."""
    task = lone.background.task(name="shop.len", fallback="local")(len)
    state_of(lone.app).become_worker()
    with pytest.raises(BrokerError):
        task.enqueue("abc")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fallback": "celery"}, 'allowed is "local" or None'),
        ({"fallback": True}, 'allowed is "local" or None'),
        ({"fallback": "local", "durable": True}, "the journal keeps durable items"),
        ({"fallback": "local", "backend": "local"}, "items that go to Celery"),
        ({"fallback": "local", "backend": "immediate"}, "items that go to Celery"),
    ],
)
def test_nonsense(options: dict[str, Any], words: str) -> None:
    """A fallback that cannot be is refused where the task is made, and where it is changed."""
    background = Background()
    with pytest.raises(ConfigurationError, match=words):
        background.task(**options)(len)
    with pytest.raises(ConfigurationError, match=words):
        background.task(name="shop.len")(len).using(**options)
    with pytest.raises(ConfigurationError, match="has to be durable"):
        background.periodic(seconds=1)(background.task(name="shop.max", fallback="local")(max))


@pytest.mark.parametrize("backend", ["local", "immediate"])
def test_without_celery(make_site: Callable[..., Site], backend: str) -> None:
    """With another backend the option has no effect."""
    site = make_site(BACKGROUND_BACKEND=backend)
    task = site.background.task(name="shop.len", fallback="local")(len)
    with site.app.app_context():
        assert task.enqueue("abc").result(BOUND) == 3
