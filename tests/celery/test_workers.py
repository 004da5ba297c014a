"""Items when workers, the broker or settings fail: real processes, killed and stopped."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from flask import Flask
from kombu import Connection

from flask_background import Background, Status, signals
from flask_background.app_state import state_of
from flask_background.errors import BrokerError, ConfigurationError, NotFinishedError, UnsupportedError

from ..helpers import BOUND, receiving, slack, until
from ..rabbitmq_server import RabbitMQ
from ..redis_server import Redis
from . import shop
from .conftest import Broker, Worker, on_both

MakeWorker = Callable[..., Worker]
MakeApp = Callable[..., Flask]

pytestmark = pytest.mark.usefixtures("nothing_queued")


@on_both
def test_child_is_killed(app: Flask, make_worker: MakeWorker) -> None:
    """A run whose process is killed is followed by another; an item that kills it every time is parked."""
    worker = make_worker()
    once = shop.die.enqueue(1)
    assert once.result(60) == 2
    poison = shop.die.enqueue(99)
    assert "was parked: its process died under it 3 times" in str(poison.exception(60))
    assert (poison.status, poison.attempt) == (Status.FAILED, 3)
    assert worker.notes.count("dies 3") == 1
    twice = shop.die.using(max_crashes=1).enqueue(99)
    assert "1 times" in str(twice.exception(60))
    assert shop.echo.enqueue(1).result(BOUND) == 1


@on_both
def test_nothing_is_lost(app: Flask, make_worker: MakeWorker) -> None:
    """Of many items none is lost, whichever of the worker's processes are killed meanwhile."""
    worker = make_worker()
    worker.wait_until_ready()
    items = []
    for number in range(150):
        items.append(shop.echo.enqueue(number))
        if number % 50 == 25:
            os.kill(min(until(lambda: worker.children)), signal.SIGKILL)  # the kernel may list none
    assert [item.result(60) for item in items] == list(range(150))


def test_worker_is_killed(app: Flask, make_worker: MakeWorker) -> None:
    """When a worker is killed whole, another one runs its running and waiting items in seconds."""
    first, second = (
        make_worker("--hostname", name, "--concurrency", "1", "--prefetch-multiplier", "4") for name in "ab"
    )
    for worker in (first, second):
        worker.wait_until_ready()
    names = ["one", "two", "three", "four", "five", "six"]
    items = [shop.hold.enqueue(name) for name in names]
    first.wait_for_note(" runs in ", count=2)  # they have one folder; each has some more in its hands
    first.kill()
    killed = time.monotonic()
    for name in names:
        second.let_go(name)
    assert [item.result(60) for item in items] == names
    assert time.monotonic() - killed < 15  # 10, and what a busy machine needs
    assert sorted(item.attempt for item in items) == [1, 1, 1, 1, 1, 2]


def test_message_is_lost(app: Flask, make_worker: MakeWorker, redis: Redis) -> None:
    """An item whose message has vanished gets another one, whether others wait behind it or not."""
    lost = shop.echo.enqueue(1)
    redis._ask(b"SELECT 0\r\nDEL celery")
    busy = [shop.hold.enqueue("go") for _ in range(3)]
    worker = make_worker()
    worker.let_go("go")
    assert lost.result(60) == 1
    assert lost.attempt == 1
    assert [item.result(BOUND) for item in busy] == ["go"] * 3


def test_queue_of_the_site(make_app: MakeApp, make_worker: MakeWorker, redis: Redis) -> None:
    """A worker that sends the message of an item sends it through the queue that the site has named."""
    make_worker().wait_until_ready()
    with make_app(celery={"task_default_queue": "other"}).app_context():
        item = shop.echo.using(delay=0.1).enqueue(1)
        until(lambda: redis.length("other") == 1)
        assert item.status is Status.QUEUED


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_worker_is_killed_on_rabbitmq(app: Flask, make_worker: MakeWorker) -> None:
    """RabbitMQ sees that the connection is gone, so another worker runs the items in seconds."""
    first, second = make_worker("--hostname", "a"), make_worker("--hostname", "b")
    for worker in (first, second):
        worker.wait_until_ready()
    items = [shop.hold.enqueue(name) for name in ("one", "two", "three", "four")]
    for name in ("one", "two", "three", "four"):
        first.wait_for_note(f"{name} runs")  # they have one folder
    first.kill()
    until(lambda: len([line for line in second.notes if " runs" in line]) == 4)
    for name in ("one", "two", "three", "four"):
        second.let_go(name)
    assert [item.result(60) for item in items] == ["one", "two", "three", "four"]
    assert sorted(item.attempt for item in items) == [1, 1, 2, 2]


def test_beyond_the_visibility_timeout(make_app: MakeApp, make_worker: MakeWorker) -> None:
    """Neither a delay nor a run that is longer than the broker waits has the item run twice."""
    options = {"broker_transport_options": {"visibility_timeout": 2, "unacked_restore_interval": 1}}
    workers = [make_worker("--hostname", name, celery=options, kill_after=0.5) for name in ("a", "b")]
    with make_app(celery=options).app_context():
        late, long = shop.hold.using(delay=5).enqueue("late"), shop.hold.enqueue("long")
        workers[0].wait_for_note("long runs")
        workers[0].let_go("late")
        assert late.result(60) == "late"
        assert late.started_at is not None
        assert (late.started_at - late.enqueued_at).total_seconds() >= 5
        workers[0].let_go("long")
        assert long.result(BOUND) == "long"
        assert late.attempt == long.attempt == 1
    assert sum(" runs" in line for line in workers[0].notes) == 2


def test_local_items_of_a_worker(make_app: MakeApp, make_worker: MakeWorker, tmp_path: Path) -> None:
    """An item can leave a durable one to this machine's processes, but none that would end with its own."""
    worker = make_worker(journal=str(tmp_path / "journal"))
    app = make_app(journal=tmp_path / "journal")
    with app.app_context():
        item_id, refusal = shop.enqueue_durable.enqueue().result(60)
        assert refusal == "EnqueuedInChildError"
        item = shop.background.get(item_id)
        assert item is not None
        assert item.status is Status.QUEUED
        state_of(app).look_for_work()
        assert item.result(BOUND) == 42
    assert worker.process.poll() is None


@on_both
def test_broker_is_gone(app: Flask, make_app: MakeApp, broker: Broker, make_worker: MakeWorker) -> None:
    """Enqueue and the handle raise in time where the broker is gone, or hangs; later all is well."""
    server, hasty = broker.server, make_app(publish_timeout=2)
    item = shop.echo.enqueue(1)
    for stop in (server.pause, server.stop):
        stop()
        began = time.monotonic()
        with (
            hasty.app_context(),
            receiving(signals.item_refused, hasty) as refused,
            pytest.raises(BrokerError) as raised,
        ):
            shop.echo.enqueue(2)
        assert time.monotonic() - began < 2.5 + slack()  # 2, and what a busy machine needs
        assert refused == [{"task_name": "tests.celery.shop.echo", "error": raised.value}]
        assert raised.value.get_response().status_code == 503
        with (
            hasty.app_context(),
            pytest.raises(BrokerError if isinstance(server, Redis) else NotFinishedError),
        ):
            # RabbitMQ does not keep the records.
            shop.background.get(item.id).result(1)  # type: ignore[union-attr]
        if stop == server.pause:
            server.resume()
            assert item.status is Status.QUEUED
    server.start()
    make_worker()
    assert item.result(60) == 1
    assert shop.echo.enqueue(3).result(BOUND) == 3


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_queue_is_gone(app: Flask, rabbit: RabbitMQ, make_worker: MakeWorker) -> None:
    """RabbitMQ would drop a message that has no queue: enqueue hears of that, and makes one."""
    shop.echo.enqueue(1)
    with Connection(rabbit.url) as connection:
        connection.default_channel.queue_delete("celery")
    item = shop.echo.enqueue(2)
    make_worker()
    assert item.result(60) == 2


@pytest.mark.parametrize(
    ("celery", "error", "words"),
    [
        ({"result_backend": "rpc://"}, UnsupportedError, "only the process can read"),
        ({"result_backend": "disabled://"}, ConfigurationError, "no result_backend"),
        ({"task_always_eager": True}, ConfigurationError, '"immediate"'),
        ({"accept_content": ["pickle"]}, ConfigurationError, 'accept_content lacks "json"'),
    ],
)
def test_settings_that_cannot_be(
    make_app: MakeApp, celery: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Enqueue refuses settings with which no result could be read, or no worker would take the item."""
    with make_app(celery=celery).app_context(), pytest.raises(error, match=words):
        shop.echo.enqueue(1)


def test_no_celery() -> None:
    """An app that names Celery and has none is told how to get one; nonsense in its place is refused."""
    app = Flask(__name__)
    app.config["BACKGROUND_BACKEND"] = "celery"
    background = Background(app)
    with pytest.raises(ConfigurationError, match="BACKGROUND_CELERY ="):
        background.task(len).enqueue("abc")
    for wrong in ("redis://secret", {}, {"broker_url": "redis://secret"}):
        with pytest.raises(ConfigurationError, match=r"BACKGROUND_CELERY .*result_backend") as raised:
            Background(_configured(wrong))
        assert "secret" not in str(raised.value)


def _configured(celery: Any) -> Flask:
    app = Flask(__name__)
    app.config["BACKGROUND_CELERY"] = celery
    return app


def test_backend_that_no_worker_knows(redis: Redis) -> None:
    """An app that does not say that items go to Celery sends none: its workers would not know them."""
    app = Flask(__name__)
    background = Background(app)
    app.extensions["celery"] = Celery("own", broker=f"{redis.url}/0", backend=f"{redis.url}/1")
    task = background.task(name="shop.work")(len)
    with app.app_context(), pytest.raises(ConfigurationError, match="no worker would know that"):
        task.using(backend="celery").enqueue("abc")
    assert redis.length("celery") == 0


def test_who_keeps_celery_keeps_the_app(make_app: MakeApp) -> None:
    """A module that keeps nothing but ``create_app().extensions["celery"]`` has all that its worker needs."""
    app = make_app()
    celery, seen = app.extensions["celery"], weakref.ref(app)
    del app
    gc.collect()
    kept = seen()
    assert kept is not None
    assert kept.extensions["celery"] is celery


def test_celery_of_the_users_own(redis: Redis) -> None:
    """The app's own Celery is used and left as it is; an item is routed as its task's name says."""
    app = Flask(__name__)
    background = Background(app)
    celery = Celery("own", broker=f"{redis.url}/0", backend=f"{redis.url}/1", set_as_current=False)
    celery.conf.update(task_acks_late=False, task_default_queue="mine", task_routes={"shop.*": "shops"})
    app.extensions["celery"] = celery
    before = celery.conf.table(with_defaults=False)
    task = background.task(name="shop.work", backend="celery")(len)
    item = task.enqueue("abc")
    assert celery.conf.table(with_defaults=False) == before
    assert item.status is Status.QUEUED
    assert redis.length("shops") == 1


@on_both
def test_fork(broker: Broker, script: Callable[..., Any], make_worker: MakeWorker) -> None:
    """A process that is forked has connections of its own, and its parent's handles are good there."""
    program = script(
        f"""
        import os
        from flask_background.app_state import state_of
        from tests.celery import shop
        app = shop.create_app(BACKGROUND_CELERY={broker.urls})
        with app.app_context():
            before = state_of(app).celery
            first = shop.echo.enqueue(1)
            pid = os.fork()
            mine = [shop.echo.enqueue(number) for number in range(20)]
            assert (state_of(app).celery is before) is bool(pid)
            assert [item.result(60) for item in mine] == list(range(20))
            assert first.result(60) == 1
            if pid == 0:
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("good", flush=True)
        """
    )
    make_worker()
    until(lambda: "good" in program.said or program.process.poll() is not None, 60)
    assert program.ends() == 0, program.said


def test_imported_only_when_named(script: Callable[..., Any]) -> None:
    """An app that does not name Celery does not import it."""
    program = script(
        """
        import sys
        from flask import Flask
        from flask_background import Background
        background = Background(app := Flask("shop"))
        assert background.enqueue(lambda: 42).result(20) == 42
        assert "celery" not in sys.modules and "kombu" not in sys.modules
        print("good", flush=True)
        """
    )
    program.wait_for("good")
    assert program.ends() == 0
