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
from flask_background.celery.uploads import Uploads
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
    secrets = _passwords(celery, settings)
    for level, subject, text, cure in _findings(app, settings, celery):
        for secret in secrets:  # somebody's error may have the URL in it
            text = text.replace(secret, "**")
            cure = cure and cure.replace(secret, "**")
        yield Finding(level, subject, text, cure)


def _findings(app: Flask, settings: Settings, celery: Celery) -> Iterator[Finding]:
    yield from _settings(celery)
    yield from _broker(celery, settings)
    yield from _results(celery, settings)
    if settings.uploads is not None:
        yield _uploads(app, settings.uploads, settings)


def _settings(celery: Celery) -> Iterator[Finding]:
    conf = celery.conf
    if {"pickle", "application/x-python-serialize"} & set(conf.accept_content):
        what = "whoever can write to the broker can run any code in the workers, by a pickle"
        yield Finding("error", "accept_content", f"is {conf.accept_content!r}: {what}", 'set it to ["json"]')
    else:
        yield Finding("ok", "accept_content", "has no pickle")
    # Others may have settings there, so only what looks like Celery's is told.
    for name in explicit_settings(celery).keys() - SETTING_KEYS:
        if close := get_close_matches(name, SETTING_KEYS, 1, 0.85):
            yield Finding("warning", name, "Celery has no such setting", f"{close[0]} may be meant")
    for name, what in (("broker_url", "messages"), ("result_backend", "records")):
        scheme = str(conf.get(name) or "").partition(":")[0]
        if scheme in _LOCAL:
            cure = "set one that all can reach, such as redis://..."
            yield Finding("error", name, f"{scheme}: other machines cannot read its {what}", cure)


def _broker(celery: Celery, settings: Settings) -> Iterator[Finding]:
    uri = celery.connection_for_write().as_uri()
    try:
        Publisher(celery, settings.publish_timeout, settings.kill_after).probe()
    except BackgroundError as error:
        cure = "start it, or correct the URL"
        yield Finding("error", "broker", f"{uri} cannot be reached: {error}", cure)
        return
    yield Finding("ok", "broker", f"{uri} answers")
    try:
        count = len(celery.control.ping(timeout=_ANSWER))
    except Exception as error:
        yield Finding("error", "workers", f"they could not be asked: {error}", "look at the broker")
        return
    if count:
        yield Finding("ok", "workers", f"{count} answer{'s'[: count == 1]}")
    else:
        what = f"none answered in {_ANSWER:g} s; one of --pool solo does so between items only"
        yield Finding("warning", "workers", what, "start one: flask background celery-worker")


def _results(celery: Celery, settings: Settings) -> Iterator[Finding]:
    if is_redis(celery):
        what = "lie in Redis: items survive their workers, and may have keys"
        yield Finding("ok", "records", what)
    else:
        what = (
            "do not lie in Redis: items have no keys, an item runs again only when the broker gives its"
            " message out again, and it may run beside itself then"
        )
        yield Finding("warning", "records", what, 'set result_backend = "redis://..."')
    try:
        records_of(celery, settings).read("0" * 24)
    except BackgroundError as error:
        yield Finding("error", "result_backend", str(error), "start it, or correct the URL")
        return
    yield Finding("ok", "result_backend", "answers")
    if not is_redis(celery):
        return
    try:
        config: Any = client_of(celery, settings.publish_timeout).config_get("*")
    except Exception:
        return  # who rents one may not look
    policy = config.get("maxmemory-policy")
    if config.get("maxmemory", "0") != "0" and policy != "noeviction":
        what = f"its policy {policy} drops what waits when memory is short"
        yield Finding("error", "redis", what, "set maxmemory-policy to noeviction")
    if config.get("appendonly") == "no":
        what = "it has no appendonly file: what was enqueued last is lost when it dies"
        yield Finding("warning", "redis", what, "set appendonly to yes")


def _uploads(app: Flask, place: str, settings: Settings) -> Finding:
    """Whether this user can write, read and remove there."""
    name = f"doctor-{token_hex(12)}"
    try:
        uploads = Uploads(place, settings.keep, Events(app))
        uploads.save(name, [FileStorage(BytesIO(b"?"))])
        uploads.open(name, 0).close()
        uploads.remove(name, 1)
    except Exception as error:
        cure = "make or mount it, for the user that this runs as, or correct BACKGROUND_UPLOADS"
        return Finding("error", "uploads", str(error), cure)
    return Finding("ok", "uploads", f"{uploads.store.shown} can be written and read")


def _passwords(celery: Celery, settings: Settings) -> set[str]:
    """The passwords in all URLs, as they are and as they are quoted there."""
    conf = celery.conf
    found: set[str] = set()
    for urls in (conf.broker_url, conf.broker_read_url, conf.result_backend, settings.uploads):
        for url in urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";"):
            if password := urlsplit(url).password:
                found |= {password, unquote(password)}
    return found
