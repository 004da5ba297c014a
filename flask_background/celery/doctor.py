"""Looks for what is unsafe in a Celery app's settings, and asks its servers and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from io import BytesIO
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from celery.app.defaults import SETTING_KEYS
from werkzeug.datastructures import FileStorage

from flask_background.celery.app import (
    Cluster,
    celery_of,
    check_settings,
    check_timeout,
    explicit_settings,
    fixed_visibility,
    visible_for,
)
from flask_background.celery.records import Records
from flask_background.celery.uploads.uploads import Uploads
from flask_background.core.finding import Finding
from flask_background.errors import BackgroundError, ConfigurationError

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.app_state import BackgroundState

# How long workers have to answer (seconds).
_ANSWER = 2.0
# What one machine, or one process, has for itself.
_LOCAL = ("memory", "filesystem", "file", "cache+memory", "db+sqlite", "sqla+sqlite")

# What of Celery's settings is unsafe for items, by name: when, what happens then, and the cure.
_UNSAFE: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "task_acks_late": (
        lambda value: not value,
        "an item is lost when its worker dies",
        "leave it out: it is True for items",
    ),
    "task_reject_on_worker_lost": (
        lambda value: not value,
        "an item is lost when the process that runs it is killed, out of memory, say",
        "leave it out: it is True for items, and max_crashes bounds it",
    ),
    "worker_prefetch_multiplier": (
        lambda value: value != 1,
        "a worker takes more than it runs, and that waits while others are idle",
        "leave it out: it is 1 where items run",
    ),
    "accept_content": (
        lambda value: bool({"pickle", "application/x-python-serialize"} & set(value)),
        "whoever can write to the broker can run any code in the workers, by a pickle",
        'set it to ["json"]',
    ),
}


def examine(part: BackgroundState) -> Iterator[Finding]:
    """Look at the app's Celery. No finding has a password in it."""
    try:
        celery = celery_of(part.app, part.settings)
        check_settings(celery)
    except ConfigurationError as error:
        yield Finding("error", "celery", str(error), "see the message")
        return
    for finding in _findings(part, celery):
        hidden = [None if text is None else _without_passwords(part, celery, text) for text in finding[2:]]
        yield finding._replace(text=hidden[0] or "", cure=hidden[1])


def _findings(part: BackgroundState, celery: Celery) -> Iterator[Finding]:
    yield from _settings(part, celery)
    yield from _timeouts(part, celery)
    yield from _urls(celery)
    yield from _servers(part, celery)
    yield from _uploads(part)


def _settings(part: BackgroundState, celery: Celery) -> Iterator[Finding]:
    given = explicit_settings(celery)
    for name, (is_unsafe, what, cure) in _UNSAFE.items():
        if name not in given:
            yield Finding("ok", name, "as it should be")
        elif is_unsafe(given[name]):
            level = "warning" if name == "worker_prefetch_multiplier" else "error"
            yield Finding(level, name, f"is {given[name]!r}: {what}", cure)  # type: ignore[arg-type]
        else:
            yield Finding("ok", name, f"is {given[name]!r}")
    for name in given.keys() - SETTING_KEYS:  # others may have settings there, so only what looks like ours
        if close := get_close_matches(name, SETTING_KEYS, 1, 0.85):
            yield Finding("warning", name, "Celery has no such setting", f"{close[0]} may be meant")
    expires = celery.conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if seconds and seconds < part.settings.keep:
        yield Finding(
            "warning",
            "result_expires",
            f"is {seconds:g} s: nobody knows an item after that, also one that still waits. BACKGROUND_KEEP"
            f" is {part.settings.keep:g} s",
            "set it to BACKGROUND_KEEP, or leave it out",
        )
    else:
        yield Finding("ok", "result_expires", "no shorter than BACKGROUND_KEEP")


def _timeouts(part: BackgroundState, celery: Celery) -> Iterator[Finding]:
    kill_after, tasks = part.settings.kill_after, part.registry.tasks.values()
    visible = visible_for(fixed_visibility(celery), tasks, kill_after)
    wrong = False
    for task in tasks:
        try:
            check_timeout(task, visible, kill_after)
        except ConfigurationError as error:
            wrong = True
            yield Finding("error", "timeouts", str(error), "see the message")
    if not wrong:
        yield Finding("ok", "timeouts", f"none is longer than a message is left to its worker, {visible:g} s")


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


def _servers(part: BackgroundState, celery: Celery) -> Iterator[Finding]:
    cluster = Cluster(celery, part.settings, part.registry)
    connection = cluster.client.connection_for_write()
    uri = connection.as_uri()
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except Exception as error:
        yield Finding("error", "broker", f"{uri} cannot be reached: {error}", "start it, or correct the URL")
    else:
        yield Finding("ok", "broker", f"{uri} answers")
        yield from _redis(connection)
        yield _workers(celery)
    finally:
        connection.release()
    try:
        Records(cluster.client).read("0" * 24)
    except BackgroundError as error:
        yield Finding("error", "result_backend", str(error), "start it, or correct the URL")
    else:
        yield Finding("ok", "result_backend", "answers")


def _redis(connection: Any) -> Iterator[Finding]:
    if connection.transport.driver_type != "redis":
        return
    try:
        config = connection.default_channel.client.config_get("*")
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


def _uploads(part: BackgroundState) -> Iterator[Finding]:
    """Whether this user can write, read and remove there."""
    if part.settings.uploads is None:
        return
    name = f"doctor-{token_hex(12)}"
    try:
        uploads = Uploads(part.settings.uploads, part.settings.keep)
        uploads.save(name, [FileStorage(BytesIO(b"?"))])
        uploads.open(name, 0).close()
        uploads.remove(name, 1)
    except Exception as error:
        cure = "make or mount it, for the user that this runs as, or correct BACKGROUND_UPLOADS"
        yield Finding("error", "uploads", str(error), cure)
    else:
        yield Finding("ok", "uploads", f"{uploads.store.shown} can be written and read")


def _without_passwords(part: BackgroundState, celery: Celery, text: str) -> str:
    """The text, should somebody's error have the URL in it."""
    conf = celery.conf
    for urls in (conf.broker_url, conf.broker_read_url, conf.result_backend, part.settings.uploads):
        for url in urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";"):
            password = urlsplit(url).password
            for secret in {password, unquote(password)} if password else ():
                text = text.replace(secret, "**")
    return text
