"""Items for a Celery cluster. Imported only where Celery is named.

Where they are enqueued: ``backend`` (the contract), ``cluster`` (the Celery app), ``publisher``, ``envelope``
(what a message says), ``records`` (what is known of an item everywhere). In a worker: ``worker`` (its start),
``request``, ``claim`` and ``run`` (one message), ``owner`` (the item while it runs), ``life`` (its signs of
that), ``stopflag`` and ``ending`` (the worker's stop), ``lasting`` (Redis is away). Where Celery cannot be
reached: ``dispatch`` (which way an item goes), ``breaker``, ``wayout``, ``sender`` (what waited in the
journal). On both sides: ``belongings`` (what an item has besides): ``keys``, and ``uploads``, which lie in
``stores``.
"""

from ...errors import ConfigurationError

try:
    import celery  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "celery":
        raise
    raise ConfigurationError("Celery is not installed: pip install flask-background[celery]") from error
