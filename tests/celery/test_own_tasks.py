"""The app's own Celery tasks, and Celery itself, are as they are without us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..helpers import BOUND, ROOT, until
from ..redis_server import Redis


def run_worker(folder: Path, redis: Redis, with_what: str) -> dict[str, Any]:
    """Send TERM to a worker in the midst of its tasks; return what can be seen of the worker."""
    folder.mkdir()
    environment = {"OWN_FOLDER": str(folder), "OWN_WITH": with_what, "OWN_REDIS": redis.url}
    python = {"cwd": ROOT, "env": {**os.environ, **environment}, "stdin": subprocess.DEVNULL}
    send = "from tests.celery import own; own.early.delay('early'); own.late.delay('late')"
    if with_what == "items":
        send += "; own.app.app_context().push(); own.item.enqueue()"
    subprocess.run([sys.executable, "-c", send], check=True, timeout=60, **python)  # type: ignore[call-overload]
    names = ["early", "late", *["item"] * (with_what == "items")]
    command = ["celery", "-A", "tests.celery.own:celery_app", "worker", "--concurrency", str(len(names))]
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, **python)  # type: ignore[call-overload]
    try:
        until(lambda: all((folder / name).exists() for name in names), 60)
        from celery import Celery

        # A connection of its own: the pool's may be one that an earlier test had Redis close.
        with Celery("asks", broker=f"{redis.url}/0", set_as_current=False) as asking:
            with asking.connection_for_write() as connection:
                answers = asking.control.inspect(timeout=0.5, connection=connection).stats()
            (stats,) = answers.values()
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(60)
    finally:
        worker.kill()
        worker.wait(BOUND)
    return {
        "status": status,
        "early": (folder / "early").read_text(),
        "late": (folder / "late").read_text(),
        "prefetched for each": stats["prefetch_count"] / len(names),
        "queued": redis.length("celery"),
        "unacknowledged": redis.keys(0, "unacked*"),
    }


def test_own_tasks_at_term(redis: Redis, tmp_path: Path) -> None:
    """The app's own tasks end, acknowledged early or late, and the worker after them, also beside items."""
    seen = {}
    for with_what in ("nothing", "background", "items"):
        redis.forget_all()
        seen[with_what] = run_worker(tmp_path / with_what, redis, with_what)
    assert (seen["nothing"]["early"], seen["nothing"]["late"]) == ("done", "done")
    assert seen["background"] == seen["nothing"]
    assert {**seen["items"], "queued": 0} == seen["nothing"]  # our item may be there again
    log = (tmp_path / "items" / "log").read_text()
    assert log.count("(own.item) interrupted") == 1  # it went back when the grace period was over
    assert "flask_background" not in (tmp_path / "background" / "log").read_text()


SNAPSHOT = """
    import importlib, json, pkgutil, sys, types
    from flask import Flask
    import celery, kombu, redis
    from celery import Celery
    from celery.contrib.testing.worker import start_worker
    import celery.apps.worker, celery.backends.redis, celery.concurrency.thread, kombu.transport.redis
    import celery.worker.consumer, celery.worker.request, redis.sentinel
    ROOTS = {{"celery", "kombu", "redis", "billiard", "amqp"}}
    KINDS = (type, types.FunctionType, property, classmethod, staticmethod)

    def snapshot():
        seen = {{}}
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in ROOTS:
                continue
            for attribute, value in list(vars(module).items()):
                if isinstance(value, KINDS):
                    seen[f"{{name}}.{{attribute}}"] = value
                if isinstance(value, type) and value.__module__.partition(".")[0] in ROOTS:
                    for inner, thing in list(vars(value).items()):
                        seen[f"{{value.__module__}}.{{value.__qualname__}}.{{inner}}"] = thing
        return seen

    app = Flask("shop")
    urls = {{"broker_url": "{url}/0", "result_backend": "{url}/1"}}
    made = Celery("shop", set_as_current=False)
    made.conf.update(urls, worker_hijack_root_logger=False)
    app.extensions["celery"] = made

    @made.task(name="shop.own")
    def own():
        return 42

    before = snapshot()
    if {with_us}:
        from flask_background import Background
        task = Background(app).task(name="shop.len", backend="celery")(len)
    with app.app_context(), start_worker(made, pool="threads", perform_ping_check=False):
        assert own.delay().get(timeout=60) == 42
        if {with_us}:
            assert task.using(key="k").enqueue("abc").result(60) == 3
    after = snapshot()
    changed = sorted(name for name in before if before[name] is not after.get(name, before))
    print("changed:", json.dumps(changed), flush=True)
    settings = made.conf.table(with_defaults=False, censored=False)
    settings["include"] = sorted(settings["include"])
    print("conf:", json.dumps(sorted(map(str, settings.items()))), flush=True)
    """


def test_nothing_is_replaced(script: Callable[..., Any], redis: Redis) -> None:
    """No module, class or setting of Celery, kombu and redis-py has another attribute than without us."""
    said = []
    for with_us in (False, True):
        redis.forget_all()
        program = script(SNAPSHOT.format(url=redis.url, with_us=with_us))
        until(lambda program=program: "conf:" in program.said or program.process.poll() is not None, 60)
        assert program.ends() == 0, program.said
        said.append([line for line in program.said.splitlines() if line.startswith(("changed:", "conf:"))])
    assert len(said[0]) == 2
    assert said[1] == said[0]


def test_celery_is_left_alone(script: Callable[..., Any]) -> None:
    """In an app with a Celery of its own, and no item for it, we connect and register nothing there."""
    program = script(
        """
        import sys
        from celery import Celery, signals
        from flask import Flask
        from flask_background import Background
        app = Flask("shop")
        app.extensions["celery"] = made = Celery("shop", set_as_current=False)
        background = Background(app)
        assert background.enqueue(lambda: 42).result(20) == 42
        names = ["worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown", "task_revoked"]
        assert not [name for name in names if getattr(signals, name).receivers]
        assert not [name for name in made.tasks if name.startswith("flask_background")]
        assert not [name for name in sys.modules if name.startswith("flask_background.celery")]
        background.task(backend="celery")(len)
        assert signals.worker_init.receivers
        print("good", flush=True)
        """
    )
    assert program.ends() == 0, program.said
    assert "good" in program.said
