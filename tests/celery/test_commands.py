"""``flask background celery-worker`` and ``doctor``, with real servers and workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from flask_background import Background
from flask_background.cli.commands import background as group

from ..helpers import until
from ..redis_server import Redis
from .conftest import Broker, Worker, on_both


def call(app: Flask, *args: str) -> Result:
    """Run a command as ``flask background`` does."""
    result: Result = app.test_cli_runner().invoke(group, args)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def findings(app: Flask, code: int) -> dict[str, list[str]]:
    """The doctor's findings that are not ok: by subject, level, text and cure."""
    result = call(app, "doctor", "--json")
    assert result.exit_code == code, result.output
    return {
        found["subject"]: [found["level"], found["text"], found["cure"]]
        for found in json.loads(result.stdout)
        if found["level"] != "ok"
    }


def test_worker_without_celery(script: Callable[..., Any]) -> None:
    """Without Celery the command and ``Background(app)`` say in one line what to install."""
    program = script(
        """
        import sys
        from flask import Flask
        from flask_background import Background
        from flask_background.cli.commands import background as group

        class NotInstalled:
            def find_spec(self, name, *_):
                if name == "celery":
                    raise ModuleNotFoundError("No module named 'celery'", name=name)

        sys.meta_path.insert(0, NotInstalled())
        Background(app := Flask("shop"))
        result = app.test_cli_runner().invoke(group, ["celery-worker"])
        print(result.exit_code, result.output, end="")
        app = Flask("shop")
        app.config["BACKGROUND_BACKEND"] = "celery"
        try:
            Background(app)
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    assert program.ends() == 0
    what = "Celery is not installed: pip install flask-background[celery]\n"
    assert program.said == f"1 Error: {what}ConfigurationError {what}"


def test_worker_that_cannot_start(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """No Celery, an option that it does not have, and settings that cannot be are one line each."""
    app = Flask("shop")
    Background(app)
    result = call(app, "celery-worker")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "set BACKGROUND_CELERY" in result.stderr
    result = call(make_app(), "celery-worker", "--pol", "solo")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@on_both
def test_nothing_to_find(
    make_app: Callable[..., Flask], make_worker: Callable[..., Worker], broker: Broker
) -> None:
    """With our own settings all is ok, once a worker answers."""
    app = make_app()
    assert findings(app, 1).keys() == {"workers"}
    make_worker()
    until(lambda: call(app, "doctor").exit_code == 0, 60)
    assert findings(app, 0) == {}
    result = call(app, "doctor")
    assert result.exit_code == 0
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    assert "1 answers" in result.stdout


@pytest.mark.parametrize(
    ("celery", "subject", "level", "words"),
    [
        ({"accept_content": ["json", "pickle"]}, "accept_content", "error", "any code"),
        ({"accept_content": ["pickle"]}, "celery", "error", 'lacks "json"'),
        ({"result_backend": "rpc://"}, "celery", "error", "only the process can read"),
        ({"result_backend": "file:///tmp"}, "result_backend", "error", "other machines"),
        ({"result_backend": "file:///tmp"}, "records", "warning", "no keys"),
        ({"task_always_eager": True}, "celery", "error", "task_always_eager is set"),
        ({"broker_url": "reddis://127.0.0.1"}, "celery", "error", "No such transport: reddis"),
        ({"result_backend": "reddis://127.0.0.1"}, "celery", "error", "No module named 'reddis'"),
        ({"task_ack_late": False}, "task_ack_late", "warning", "Celery has no such setting"),
    ],
)
def test_unsafe_settings(
    make_app: Callable[..., Flask], celery: dict[str, Any], subject: str, level: str, words: str
) -> None:
    """Each unsafe setting is named, with the danger and the cure."""
    found = findings(make_app(celery=celery), 1)[subject]
    assert found[0] == level
    assert words in found[1]
    assert found[2]


def test_uploads(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """The doctor names a place for uploads that cannot be written, and leaves nothing in one that can."""
    app = make_app(uploads=str(tmp_path / "none"))
    level, text, cure = findings(app, 1)["uploads"]
    assert (level, str(tmp_path) in text) == ("error", True)
    assert "mount it" in cure
    app = make_app(uploads=str(tmp_path))
    assert "uploads" not in findings(app, 1)  # there is no worker
    assert not list(tmp_path.iterdir())
    app = make_app(uploads="nowhere://me:s3cret@bucket/prefix")
    assert findings(app, 1)["uploads"][0] == "error"
    assert "s3cret" not in call(app, "doctor").output


def test_servers_that_are_gone(make_app: Callable[..., Flask]) -> None:
    """A server that cannot be reached is named, without its password, and in bounded time."""
    for scheme in ("redis", "amqp"):
        urls = {
            "broker_url": f"{scheme}://:s3cret@127.0.0.1:1/0",
            "result_backend": "redis://:s3cret@127.0.0.1:1/1",
        }
        app = make_app(celery=urls)
        found = findings(app, 1)
        assert found.keys() == {"broker", "result_backend"}
        assert "127.0.0.1:1" in found["broker"][1]
        result = call(app, "doctor")
        assert "s3cret" not in result.output
        assert len(re.findall("^error ", result.stdout, re.M)) == 2


def test_redis_that_forgets(make_app: Callable[..., Flask], redis: Redis) -> None:
    """The doctor names a Redis that drops waiting messages when memory is short."""
    redis._ask(b"CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lru")
    try:
        assert "allkeys-lru" in findings(make_app(), 1)["redis"][1]
    finally:
        redis._ask(b"CONFIG SET maxmemory 0 maxmemory-policy noeviction")


def test_local_part(tmp_path: Path) -> None:
    """Without Celery the doctor says whether the journal can be written, and what the journal survives."""
    app = Flask("shop")
    app.config.update(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_DURABILITY="process")
    background = Background(app)
    assert findings(app, 0) == {}
    background.task(name="shop.work", durable=True)(len)
    assert findings(app, 1).keys() == {"durability"}
    (tmp_path / "journal").rmdir()
    (tmp_path / "journal").write_text("")
    assert findings(app, 1)["journal"][0] == "error"


def test_names_of_settings() -> None:
    """The doctor names a setting that does not exist, with the one that may be meant."""
    app = Flask("shop")
    app.config.update(BACKGROUND_WORKERS=2, BACKGROUND_CELREY={}, BACKGROUND_X=1, OTHER=1)
    Background(app)
    found = findings(app, 1)
    assert found.keys() == {"BACKGROUND_CELREY", "BACKGROUND_X"}
    assert found["BACKGROUND_CELREY"][2] == "BACKGROUND_CELERY may be meant"
