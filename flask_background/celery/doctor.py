"""Finds unsafe settings of a Celery app, and asks its servers and workers."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from io import BytesIO
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from celery.app.defaults import SETTING_KEYS
from werkzeug.datastructures import FileStorage

from flask_background.celery.app import celery_of, check_settings, explicit_settings
from flask_background.celery.client.publisher import Publisher
from flask_background.celery.records import is_redis, records_of
from flask_background.celery.records.connection import client_of
from flask_background.celery.uploads.uploads import Uploads
from flask_background.core.events import Events
from flask_background.core.finding import Finding
from flask_background.errors import BackgroundError, ConfigurationError

if TYPE_CHECKING:
    from celery import Celery
    from flask import Flask

    from flask_background.core.settings import Settings

# How long workers have to answer (seconds).
_ANSWER = 2.0
# What one machine, or one process, has for itself.
_LOCAL = ("memory", "filesystem", "file", "cache+memory", "db+sqlite", "sqla+sqlite")


def examine(app: Flask, settings: Settings) -> Iterator[Finding]:
    """Look at the app's Celery. No finding has a password in it."""
    try:
        celery = celery_of(app, settings)
        check_settings(celery)
    except ConfigurationError as error:
        yield Finding("error", "celery", str(error), "see the message")
        return
    for finding in _findings(app, settings, celery):
        hidden = [
            None if text is None else _without_passwords(settings, celery, text) for text in finding[2:]
        ]
        yield finding._replace(text=hidden[0] or "", cure=hidden[1])


def _findings(app: Flask, settings: Settings, celery: Celery) -> Iterator[Finding]:
    yield from _settings(celery)
    yield _records(celery)
    yield from _urls(celery)
    yield from _servers(settings, celery)
    yield from _uploads(app, settings)


def _settings(celery: Celery) -> Iterator[Finding]:
    given = explicit_settings(celery)
    if {"pickle", "application/x-python-serialize"} & set(celery.conf.accept_content):
        yield Finding(
            "error",
            "accept_content",
            f"is {celery.conf.accept_content!r}: whoever can write to the broker can run any code in the"
            " workers, by a pickle",
            'set it to ["json"]',
        )
    else:
        yield Finding("ok", "accept_content", "has no pickle")
    for name in given.keys() - SETTING_KEYS:  # others may have settings there, so only what looks like ours
        if close := get_close_matches(name, SETTING_KEYS, 1, 0.85):
            yield Finding("warning", name, "Celery has no such setting", f"{close[0]} may be meant")


def _records(celery: Celery) -> Finding:
    """Say what the kind of result backend allows."""
    if is_redis(celery):
        return Finding("ok", "records", "lie in Redis: items survive their workers, and may have keys")
    return Finding(
        "warning",
        "records",
        "do not lie in Redis: items have no keys, an item runs again only when the broker gives its message"
        " out again, and it may run beside itself then",
        'set result_backend = "redis://..."',
    )


def _urls(celery: Celery) -> Iterator[Finding]:
    for name, what in (("broker_url", "messages"), ("result_backend", "records")):
        url = str(getattr(celery.conf, name) or "")
        if url.partition(":")[0] in _LOCAL:
            yield Finding(
                "error",
                name,
                f"{url.partition(':')[0]}: other machines cannot read its {what}",
                "set one that all can reach, such as redis://...",
            )


def _servers(settings: Settings, celery: Celery) -> Iterator[Finding]:
    uri = celery.connection_for_write().as_uri()
    try:
        Publisher(celery, settings.publish_timeout, settings.kill_after).probe()
    except BackgroundError as error:
        yield Finding("error", "broker", f"{uri} cannot be reached: {error}", "start it, or correct the URL")
    else:
        yield Finding("ok", "broker", f"{uri} answers")
        yield _workers(celery)
    try:
        records_of(celery, settings).read("0" * 24)
    except BackgroundError as error:
        yield Finding("error", "result_backend", str(error), "start it, or correct the URL")
    else:
        yield Finding("ok", "result_backend", "answers")
        if is_redis(celery):
            yield from _redis(settings, celery)


def _redis(settings: Settings, celery: Celery) -> Iterator[Finding]:
    try:
        config: Any = client_of(celery, settings.publish_timeout).config_get("*")
    except Exception:
        return  # who rents one may not look
    if config.get("maxmemory", "0") != "0" and config.get("maxmemory-policy") != "noeviction":
        yield Finding(
            "error",
            "redis",
            f"its policy {config.get('maxmemory-policy')} drops what waits when memory is short",
            "set maxmemory-policy to noeviction",
        )
    if config.get("appendonly") == "no":
        yield Finding(
            "warning",
            "redis",
            "it has no appendonly file: what was enqueued last is lost when it dies",
            "set appendonly to yes",
        )


def _workers(celery: Celery) -> Finding:
    try:
        count = len(celery.control.ping(timeout=_ANSWER))
    except Exception as error:
        return Finding("error", "workers", f"they could not be asked: {error}", "look at the broker")
    if count:
        return Finding("ok", "workers", f"{count} answer{'s'[: count == 1]}")
    return Finding(
        "warning",
        "workers",
        f"none answered in {_ANSWER:g} s; one of --pool solo does so between items only",
        "start one: flask background celery-worker",
    )


def _uploads(app: Flask, settings: Settings) -> Iterator[Finding]:
    """Whether this user can write, read and remove there."""
    if settings.uploads is None:
        return
    name = f"doctor-{token_hex(12)}"
    try:
        uploads = Uploads(settings.uploads, settings.keep, Events(app))
        uploads.save(name, [FileStorage(BytesIO(b"?"))])
        uploads.open(name, 0).close()
        uploads.remove(name, 1)
    except Exception as error:
        cure = "make or mount it, for the user that this runs as, or correct BACKGROUND_UPLOADS"
        yield Finding("error", "uploads", str(error), cure)
    else:
        yield Finding("ok", "uploads", f"{uploads.store.shown} can be written and read")


def _without_passwords(settings: Settings, celery: Celery, text: str) -> str:
    """The text, should somebody's error have the URL in it."""
    conf = celery.conf
    for urls in (conf.broker_url, conf.broker_read_url, conf.result_backend, settings.uploads):
        for url in urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";"):
            password = urlsplit(url).password
            for secret in {password, unquote(password)} if password else ():
                text = text.replace(secret, "**")
    return text
