"""The app's Celery: found or made, and checked. Nothing of its configuration is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery
from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured

from flask_background.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings
    from flask_background.durable.backend import DurableBackend
    from flask_background.local.backend import LocalBackend

#: The name of the one Celery task of ours, whose messages are items.
TASK_NAME = "flask_background.item"
#: The share of BACKGROUND_PUBLISH_TIMEOUT that one wait may take: for a connection, or for an answer.
SHARE_OF_A_WAIT = 0.4


class ThisProcess(Protocol):
    """The other parts of this process that serve an app's items."""

    settings: Settings
    registry: Registry
    #: Whether items may live in this process's memory.
    holds_items: bool

    @property
    def app(self) -> Flask: ...
    @property
    def backend(self) -> LocalBackend: ...
    @property
    def durable(self) -> DurableBackend: ...
    def has_journal(self) -> bool: ...
    def become_worker(self) -> None: ...
    def look_for_work(self) -> None: ...


def celery_of(app: Flask, settings: Settings) -> Celery:
    """The app's Celery, where Flask's documentation has it; else one is made of BACKGROUND_CELERY."""
    found = app.extensions.get("celery")
    if found is None:
        if settings.celery is None:
            raise ConfigurationError(
                f"app {app.name!r} has no Celery: set BACKGROUND_CELERY = {{'broker_url': 'redis://...',"
                " 'result_backend': 'redis://...'}, or keep your own in app.extensions['celery']"
            )
        found = Celery(app.import_name, set_as_current=False)
        found.conf.update(settings.celery)
        found.conf.setdefault("result_expires", settings.keep)
        # So that ``celery_app = create_app().extensions["celery"]`` keeps all that a worker needs.
        found.flask_app = app
        app.extensions["celery"] = found
    return found


def explicit_settings(celery: Celery) -> dict[str, Any]:
    """The user's own settings, by their names in lower case."""
    given: dict[str, Any] = celery.conf.table(with_defaults=False, censored=False)
    return given


def check_settings(celery: Celery) -> None:
    """Raise ConfigurationError if items could not travel, or nobody could see what came of them."""
    results = str(celery.conf.result_backend or "")
    if not results or results.startswith("disabled"):
        raise ConfigurationError(
            "Celery has no result_backend, and nobody would know where an item stands: set one, such as"
            ' result_backend = "redis://..."'
        )
    if results.startswith("rpc"):
        raise UnsupportedError(
            "Celery's result_backend is rpc, which only the process can read that enqueued an item:"
            ' set another one, such as "redis://..."'
        )
    try:
        celery.connection_for_write().transport  # noqa: B018
        by_url(results, celery.loader)
    except (KeyError, ImportError, ImproperlyConfigured) as error:
        what = error.args[0] if error.args else error  # whose words have no URL in them
        raise ConfigurationError(f"Celery's broker_url or result_backend is not usable: {what}") from error
    if celery.conf.task_always_eager:
        raise ConfigurationError(
            "Celery's task_always_eager is set, which does not hold for items: set BACKGROUND_BACKEND ="
            ' "immediate" to have them run where they are enqueued'
        )
    if not {"json", "application/json"} & set(celery.conf.accept_content):
        raise ConfigurationError('Celery\'s accept_content lacks "json", which is what items travel as')
