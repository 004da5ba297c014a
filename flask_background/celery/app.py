"""The Celery app: found or made, held to what is safe, and a client of it whose waits are bounded.

Settings that the user has given explicitly are left as they are. The client is an app of its own with the
same settings, so that what bounds an enqueue changes nothing for the user's own tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from celery import Celery
from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured

from flask_background.celery.client.publisher import ONCE_MORE, SHARE_OF_A_WAIT, Publisher
from flask_background.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.celery.envelope import Envelope
    from flask_background.core.callee import Callee
    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings

# A message may be sent to another worker when it has not been acknowledged for so long (seconds): of the 30
# minutes of RabbitMQ what is safe, and Celery's own default with Redis.
_VISIBLE = {"amqp": 1_500.0}
_VISIBLE_BY_DEFAULT = 3_600.0
# Where it can be chosen, it is longer by this than the longest run (seconds).
_MARGIN = 60.0
# The share of it that a run may have which has no timeout of its own; then Celery kills it.
_SHARE = 0.9
# The longest that a worker holds a message that is not due yet; then it sends it on.
_HOP = 600.0


class Cluster:
    """One app's Celery, as a process sees it that enqueues."""

    def __init__(self, celery: Celery, settings: Settings, registry: Registry) -> None:
        self.celery = celery
        self._settings = settings
        self._registry = registry
        self._fixed = fixed_visibility(celery)
        check_settings(celery)
        self.client = _client_of(celery, settings.publish_timeout)
        self._publisher = Publisher(self.client, settings.publish_timeout)

    @classmethod
    def of(cls, app: Flask, settings: Settings, registry: Registry) -> Self:
        """The app's Celery, or a new one. Raises ConfigurationError."""
        return cls(celery_of(app, settings), settings, registry)

    def check(self, task: Callee) -> None:
        """Raise ConfigurationError if another worker would run an item again that is still allowed to run."""
        check_timeout(task, self._visible_for(), self._settings.kill_after)

    def publish(self, item_id: str, task_name: str, payload: str, envelope: Envelope) -> None:
        """Send an item, to be run when it is due. Raises BrokerError."""
        timeout = envelope.options["timeout"]
        limit = self._visible_for() * _SHARE if timeout is None else timeout + self._settings.kill_after
        # A worker that would hold a message for longer than it may sends it on instead.
        seconds = min(envelope.seconds_left(), _HOP, self._visible_for() / 2)
        headers = envelope.headers()
        self._publisher.send(
            task_name,
            payload,
            lambda: envelope.rename(headers),
            task_id=item_id,
            countdown=seconds or None,
            serializer="json",
            headers=headers,
            time_limit=limit,
            ignore_result=True,  # the record is what is kept
            argsrepr="(...)",
            kwargsrepr="{}",
            add_to_parent=False,
            mandatory=True,  # RabbitMQ would drop what it has no queue for
        )

    def probe(self) -> None:
        """Raise BrokerError if the broker does not answer."""
        self._publisher.probe()

    def _visible_for(self) -> float:
        return visible_for(self._fixed, self._registry.tasks.values(), self._settings.kill_after)


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
    """What the user has set, by its name in lower case."""
    given: dict[str, Any] = celery.conf.table(with_defaults=False, censored=False)
    return given


def fixed_visibility(celery: Celery) -> float | None:
    """How long a message may be unacknowledged until another worker gets it (seconds), if that is given."""
    given = (celery.conf.broker_transport_options or {}).get("visibility_timeout")
    if given is not None:
        return float(given)
    return _VISIBLE.get(celery.connection_for_write().transport.driver_type)


def visible_for(fixed: float | None, tasks: Iterable[Callee], kill_after: float) -> float:
    """The same, chosen where it is not given: long enough for all tasks.

    Processes that enqueue and workers have the same tasks, so they come to the same.
    """
    if fixed is not None:
        return fixed
    longest = max((task.timeout for task in tasks if task.timeout is not None), default=0.0)
    return max(_VISIBLE_BY_DEFAULT, longest + kill_after + _MARGIN)


def check_timeout(task: Callee, visible: float, kill_after: float) -> None:
    """Raise ConfigurationError if a run may last longer than its message is left to its worker."""
    if task.timeout is not None and task.timeout + kill_after > visible:
        raise ConfigurationError(
            f"task {task.name} has a timeout of {task.timeout:g} s, and Celery's broker gives a message to"
            f" another worker after {visible:g} s: it would run beside itself. With BACKGROUND_KILL_AFTER it"
            f" needs {task.timeout + kill_after:g} s: set broker_transport_options ="
            ' {"visibility_timeout": ...} accordingly, or a shorter timeout'
        )


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


def is_amqp(celery: Celery) -> bool:
    """Whether the broker is RabbitMQ, or speaks as it does."""
    return bool(celery.connection_for_write().transport.driver_type == "amqp")


def _patience_with_amqp(wait: float) -> dict[str, Any]:
    # Without the first, a message is on its way when enqueue returns, and may be lost.
    return {"confirm_publish": True, "read_timeout": wait, "write_timeout": wait}


def _patience_with_others(wait: float) -> dict[str, Any]:
    return {"socket_timeout": wait, "socket_connect_timeout": wait, "retry_on_timeout": False}


def _client_of(celery: Celery, timeout: float) -> Celery:
    wait = timeout * SHARE_OF_A_WAIT
    client = Celery(celery.main, set_as_current=False)
    client.conf.update(explicit_settings(celery))
    client.conf.update(
        broker_connection_timeout=wait,
        broker_transport_options={
            **(celery.conf.broker_transport_options or {}),
            **(_patience_with_amqp(wait) if is_amqp(celery) else _patience_with_others(wait)),
        },
        redis_socket_timeout=wait,
        redis_socket_connect_timeout=wait,
        redis_retry_on_timeout=False,
        result_backend_always_retry=False,
        result_backend_transport_options={
            **(celery.conf.result_backend_transport_options or {}),
            "retry_policy": ONCE_MORE,
        },
    )
    return client
