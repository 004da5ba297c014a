"""The settings: read once, checked, and frozen."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_background import Background
from flask_background.app_state import state_of
from flask_background.core.executor_settings import ExecutorSettings
from flask_background.core.settings import Settings
from flask_background.errors import ConfigurationError

from ..helpers import lines


def test_defaults() -> None:
    """The defaults are as documented."""
    settings = Settings.from_config({})
    assert settings.grace_period == 90.0
    assert settings.max_queued == 10_000
    assert settings.overflow == "raise"
    assert settings.hand_over is True
    assert (settings.kill_after, settings.app, settings.switch_interval) == (5.0, None, None)
    assert (settings.backend, settings.celery, settings.publish_timeout) == ("local", None, 2.0)
    assert set(settings.executors) == {"thread", "asyncio"}
    threads = min(32, (os.cpu_count() or 1) + 4)
    assert settings.executors["thread"] == ExecutorSettings("thread", threads)
    assert settings.executors["asyncio"].kind == "asyncio"
    assert settings.executors["asyncio"].capacity >= 1_000


def test_given() -> None:
    """Settings are read from the app's config, whole seconds too; other keys do not matter."""
    settings = Settings.from_config(
        {
            "BACKGROUND_GRACE_PERIOD": 5,
            "BACKGROUND_WORKERS": 3,
            "BACKGROUND_MAX_QUEUED": 7,
            "BACKGROUND_OVERFLOW": "block",
            "SECRET_KEY": "s3cret",
        }
    )
    assert settings.grace_period == 5.0
    assert isinstance(settings.grace_period, float)
    assert settings.max_queued == 7
    assert settings.overflow == "block"
    assert settings.executors["thread"].capacity == 3


def test_executors() -> None:
    """More executors can be named, each with its bound, and the built-in ones can be changed."""
    settings = Settings.from_config(
        {
            "BACKGROUND_WORKERS": 3,
            "BACKGROUND_EXECUTORS": {
                "thread": {"kind": "thread", "workers": 9},
                "mails": {"kind": "thread", "workers": 1},
                "pictures": {"kind": "thread"},
                "calls": {"kind": "asyncio", "limit": 50},
                "pushes": {"kind": "asyncio"},
                "films": {"kind": "process"},
                "cpu": {"kind": "process", "workers": 2, "nice": 10, "max_memory": 512, "max_items": 9},
            },
        }
    )
    assert settings.executors["thread"] == ExecutorSettings("thread", 9)
    assert settings.executors["mails"] == ExecutorSettings("thread", 1)
    assert settings.executors["pictures"] == ExecutorSettings("thread", 3)
    assert settings.executors["calls"] == ExecutorSettings("asyncio", 50)
    assert settings.executors["pushes"] == settings.executors["asyncio"]
    assert settings.executors["films"] == ExecutorSettings("process", os.cpu_count() or 1)
    assert settings.executors["cpu"] == ExecutorSettings("process", 2, 10, 512, 9)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("BACKGROUND_GRACE_PERIOD", "90", "a number of seconds from 0"),
        ("BACKGROUND_GRACE_PERIOD", -1, "a number of seconds from 0"),
        ("BACKGROUND_GRACE_PERIOD", math.nan, "a number of seconds from 0"),
        ("BACKGROUND_GRACE_PERIOD", math.inf, "a number of seconds from 0"),
        ("BACKGROUND_GRACE_PERIOD", True, "a number of seconds from 0"),
        ("BACKGROUND_GRACE_PERIOD", None, "a number of seconds from 0"),
        ("BACKGROUND_WORKERS", 0, "a whole number from 1"),
        ("BACKGROUND_WORKERS", 2.0, "a whole number from 1"),
        ("BACKGROUND_WORKERS", True, "a whole number from 1"),
        ("BACKGROUND_WORKERS", "4", "a whole number from 1"),
        ("BACKGROUND_MAX_QUEUED", 0, "a whole number from 1"),
        ("BACKGROUND_MAX_QUEUED", None, "a whole number from 1"),
        ("BACKGROUND_HAND_OVER", "no", "True or False"),
        ("BACKGROUND_OVERFLOW", "drop", '"raise", "block", "run" or "journal"'),
        ("BACKGROUND_OVERFLOW", None, '"raise", "block", "run" or "journal"'),
        ("BACKGROUND_EXECUTORS", ["mails"], "a dict"),
        ("BACKGROUND_PUBLISH_TIMEOUT", 0, "a number of seconds above 0"),
        ("BACKGROUND_PUBLISH_TIMEOUT", "2", "a number of seconds from 0"),
        ("BACKGROUND_BACKEND", "redis", '"local", "immediate", "celery" or "manual"'),
        ("BACKGROUND_KILL_AFTER", -1, "a number of seconds from 0"),
        ("BACKGROUND_SWITCH_INTERVAL", 0, "seconds, from 0.00001 to 1"),
        ("BACKGROUND_SWITCH_INTERVAL", "5 ms", "seconds, from 0.00001 to 1"),
        ("BACKGROUND_SWITCH_INTERVAL", True, "seconds, from 0.00001 to 1"),
        ("BACKGROUND_APP", "", "module and app, as in"),
        ("BACKGROUND_APP", len, "module and app, as in"),
        ("BACKGROUND_APP", ":app", "module and app, as in"),
        ("BACKGROUND_APP", "shop.py:app", "module and app, as in"),
        ("BACKGROUND_APP", "./shop", "module and app, as in"),
    ],
)
def test_wrong(key: str, value: Any, allowed: str) -> None:
    """An error names the key, the value and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_config({key: value})
    assert str(caught.value).startswith(f"{key} is {value!r}; allowed is {allowed}")


@pytest.mark.parametrize(
    ("name", "options", "where", "allowed"),
    [
        ("mails", 3, "['mails']", "a name and a dict such as"),
        (3, {"kind": "thread"}, "[3]", "a name and a dict such as"),
        ("mails", {}, "['mails'][\"kind\"]", '"thread", "native-thread", "asyncio"'),
        (
            "mails",
            {"kind": "fork"},
            "['mails'][\"kind\"]",
            '"thread", "native-thread", "asyncio"',
        ),
        ("mails", {"kind": "thread", "workers": 0}, "['mails'][\"workers\"]", "a whole number from 1"),
        ("mails", {"kind": "thread", "limit": 5}, "['mails']", "not 'limit'"),
        ("mails", {"kind": "asyncio", "limit": "5"}, "['mails'][\"limit\"]", "a whole number from 1"),
        ("mails", {"kind": "asyncio", "workers": 5}, "['mails']", "not 'workers'"),
        ("cpu", {"kind": "process", "workers": 0}, "['cpu'][\"workers\"]", "a whole number from 1"),
        ("cpu", {"kind": "process", "limit": 2}, "['cpu']", "not 'limit'"),
        ("cpu", {"kind": "process", "nice": -1}, "['cpu'][\"nice\"]", "a whole number from 0 to 19"),
        ("cpu", {"kind": "process", "max_memory": 0.5}, "['cpu'][\"max_memory\"]", "a whole number from 1"),
        ("cpu", {"kind": "process", "max_items": 0}, "['cpu'][\"max_items\"]", "a whole number from 1"),
        ("thread", {"kind": "asyncio"}, "['thread'][\"kind\"]", '"thread" for this name'),
        ("asyncio", {"kind": "thread"}, "['asyncio'][\"kind\"]", '"asyncio" for this name'),
    ],
)
def test_wrong_executor(name: Any, options: Any, where: str, allowed: str) -> None:
    """An error about an executor says which one, and what it may be."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_config({"BACKGROUND_EXECUTORS": {name: options}})
    message = str(caught.value)
    assert message.startswith(f"BACKGROUND_EXECUTORS{where} is ")
    assert allowed in message


@pytest.mark.parametrize("location", ["shop", "shop:app", "shop.web:create_app('eu')"])
def test_app(location: str) -> None:
    """BACKGROUND_APP is taken as it is."""
    assert Settings.from_config({"BACKGROUND_APP": location}).app == location


def test_frozen() -> None:
    """Settings cannot be changed after they were read."""
    settings = Settings.from_config({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_queued = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.executors["thread"].capacity = 1  # type: ignore[misc]


def test_read_once(app: Flask, background: Background) -> None:
    """The config is read at init_app; later changes have no effect."""
    app.config["BACKGROUND_MAX_QUEUED"] = "nonsense"
    assert state_of(app).settings.max_queued == 10_000
    assert background.enqueue(lambda: 42).result(5) == 42


def test_refused_at_init() -> None:
    """A wrong setting is an error at init_app; when it has been put right, init_app works."""
    app = Flask("shop")
    app.config["BACKGROUND_WORKERS"] = 0
    background = Background()
    with pytest.raises(ConfigurationError, match="BACKGROUND_WORKERS"):
        background.init_app(app)
    app.config["BACKGROUND_WORKERS"] = 1
    background.init_app(app)
    assert state_of(app).settings.executors["thread"].capacity == 1


def test_unknown_key(caplog: pytest.LogCaptureFixture) -> None:
    """The log warns at init_app of an unknown key, and names the nearest setting, if one is near."""
    app = Flask("shop")
    app.config.update(
        BACKGROUND_GRACE_PERIODS=1, BACKGROUND_COLOUR="red", GRACE_PERIOD=1, BACKGROUND_WORKERS=1
    )
    Background(app)
    assert lines(caplog, logging.WARNING) == [
        "BACKGROUND_GRACE_PERIODS is no setting of Flask-Background, and has no effect:"
        " BACKGROUND_GRACE_PERIOD may be meant",
        "BACKGROUND_COLOUR is no setting of Flask-Background, and has no effect: give it another name, if it"
        " is the app's own",
    ]
    assert not app.logger.handlers


def test_journal_settings() -> None:
    """The settings of the journal, by default and given."""
    settings = Settings.from_config({})
    assert (settings.journal, settings.durability, settings.run_in_web) == (None, "power", True)
    assert (settings.keep, settings.max_payload, settings.strict) == (86_400.0, 1_000_000, False)
    settings = Settings.from_config(
        {
            "BACKGROUND_JOURNAL": "/var/lib/shop",
            "BACKGROUND_DURABILITY": "process",
            "BACKGROUND_RUN_IN_WEB": False,
            "BACKGROUND_KEEP": 60,
            "BACKGROUND_MAX_PAYLOAD": 10,
            "BACKGROUND_STRICT": False,
        }
    )
    assert (str(settings.journal), settings.durability, settings.run_in_web) == (
        "/var/lib/shop",
        "process",
        False,
    )
    assert (settings.keep, settings.max_payload, settings.strict) == (60.0, 10, False)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("BACKGROUND_JOURNAL", "", "the path of a folder"),
        ("BACKGROUND_JOURNAL", "journal", "the absolute path of a folder"),
        ("BACKGROUND_JOURNAL", "postgresql://db/shop", "the absolute path of a folder"),
        ("BACKGROUND_JOURNAL", 3, "the path of a folder"),
        ("BACKGROUND_DURABILITY", "disk", '"power" or "process"'),
        ("BACKGROUND_RUN_IN_WEB", "no", "True or False"),
        ("BACKGROUND_KEEP", -1, "seconds from 0"),
        ("BACKGROUND_MAX_PAYLOAD", 0, "whole number from 1"),
        ("BACKGROUND_STRICT", 1, "True or False"),
    ],
)
def test_wrong_journal_settings(key: str, value: object, allowed: str) -> None:
    """The error names the key, the value and what is allowed."""
    with pytest.raises(ConfigurationError, match=allowed) as caught:
        Settings.from_config({key: value})
    assert f"{key} is {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, None),
        ("/srv/uploads", "/srv/uploads"),
        (Path("/srv/uploads"), "/srv/uploads"),
        ("file:///srv/uploads", "/srv/uploads"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_uploads(given: Any, read: str | None) -> None:
    """The place of uploads that other machines need is a folder by its full path, or a URL."""
    assert Settings.from_config({"BACKGROUND_UPLOADS": given}).uploads == read


@pytest.mark.parametrize("wrong", ["uploads", "file://uploads", "secret:/x", "", b"/srv", 7, "a::s3://b"])
def test_wrong_uploads(wrong: Any) -> None:
    """Any other value is refused and not shown, because it may contain a password."""
    with pytest.raises(ConfigurationError, match=r"BACKGROUND_UPLOADS is not usable; .* or None") as raised:
        Settings.from_config({"BACKGROUND_UPLOADS": wrong})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"broker_url": "redis://:secret@h"}, "has no usable result_backend; "),
        ({"broker_uri": "redis://:secret@h"}, "has no usable broker_url and no usable result_backend; "),
        ("{'broker_url': 'secret'}", "is not a dict but str (the environment takes JSON, "),
        (7, "is not a dict but int; "),
    ],
)
def test_wrong_celery(wrong: Any, said: str) -> None:
    """An error says what is missing or cannot be, and has no password."""
    with pytest.raises(ConfigurationError, match=r"allowed is a dict .* or None if") as raised:
        Settings.from_config({"BACKGROUND_CELERY": wrong})
    assert str(raised.value).startswith(f"BACKGROUND_CELERY {said}")
    assert "secret" not in str(raised.value)
