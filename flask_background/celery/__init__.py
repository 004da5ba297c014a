"""Items for a Celery cluster. Imported only where Celery is named.

Where they are enqueued: ``backend`` (the contract), ``cluster`` (the Celery app), ``publisher``,
``envelope`` (what a message says), ``listening`` (who waits is told). In a worker: ``worker`` (its start),
``request``, ``claim`` and ``run`` (one message), ``owner`` (the item while it runs), ``watching`` (looks
after it), ``life`` (its signs of that), ``stopflag`` and ``ending`` (the worker's stop), ``taking``
(messages out of Redis) and ``lasting`` (Redis is away). Where Celery cannot be reached: ``dispatch`` (which
way an item goes), ``breaker``, ``wayout``, ``sender`` (what waited in the journal). On both sides:
``records`` (what is known of an item everywhere), in Redis by ``quick`` and ``asking``; ``channels``
(kombu's, to Redis); ``belongings`` (what an item has besides): ``keys``, and ``uploads``, which lie in
``stores``. ``doctor`` finds what is unsafe.
"""

from flask_background.errors import ConfigurationError

try:
    import celery  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "celery":
        raise
    raise ConfigurationError("Celery is not installed: pip install flask-background[celery]") from error
