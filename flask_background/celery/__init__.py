"""The bridge to Celery. Imported only where an app says that items go there.

- ``app`` finds and checks the app's Celery.
- ``client/`` is where items are enqueued: ``backend`` (the contract), ``session`` (what a process has for
  that), ``dispatch`` (from arguments to message, and the ways out where Celery cannot be reached),
  ``publisher``, ``circuit_breaker`` and ``outbox_sender``. ``handle`` is what ``enqueue`` returns.
- ``records/`` has the records of items, which every process can read: ``record`` is one of them. They lie in
  ``redis`` (by ``scripts`` and a ``connection``) or in another result backend of Celery (``results``).
- ``worker/`` is the running side: ``bootstrap`` (a worker's start and stop), ``run`` and ``running_item``
  (one message), ``run_table`` and ``supervisor`` (what runs in all processes of the worker), ``lost`` and
  ``reconciler`` (what has lost its process or its message); ``periodic`` is the thread of both.
- ``uploads`` stores the uploads of items meanwhile, and ``doctor`` finds unsafe settings.

Nothing of Celery, kombu and redis-py is replaced here, and no private name of theirs is used.
"""

from flask_background.errors import ConfigurationError

try:
    import celery  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "celery":
        raise
    raise ConfigurationError("Celery is not installed: pip install flask-background[celery]") from error
