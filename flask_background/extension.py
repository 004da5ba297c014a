"""The extension object, ``Background``: wiring only, the work is done in the packages below."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, KeysView
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from flask import current_app

from flask_background import cli, hosts, signals
from flask_background.app_state import STATE, BackgroundState, state_of
from flask_background.cli.flask_run import in_flask_run
from flask_background.core.backend import Stats
from flask_background.core.checks import is_text
from flask_background.core.executor_check import check_executor
from flask_background.core.item import WorkItem
from flask_background.core.options import Options, check_names
from flask_background.core.registry import Registry
from flask_background.core.request_state import StateProcessor
from flask_background.core.schedule import Cron, Every
from flask_background.core.status import Status
from flask_background.enqueueing import after_response as response
from flask_background.enqueueing.submit import submit_callable
from flask_background.errors import ConfigurationError, NotInitializedError
from flask_background.task import Call, Task, make_task

if TYPE_CHECKING:
    from concurrent.futures import Future

    from flask import Flask

    from flask_background.core.around import AroundFunction
    from flask_background.local.backend import LocalBackend
    from flask_background.monitoring.monitor import Monitor

P = ParamSpec("P")
R = TypeVar("R")
#: A generator function that yields once; it may be annotated with Iterator, too.
AroundItem = TypeVar("AroundItem", bound=Callable[[], Iterator[Any]])
#: A generator function of the name of the task; it yields a trace context or None, and is sent the item.
AroundEnqueue = TypeVar("AroundEnqueue", bound=Callable[[str], Iterator[Any]])
T = TypeVar("T")


_current_app: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]


class Background:
    """Background work for one Flask app, or for several apps that share their tasks.

    Use ``Background(app)``, or ``Background()`` and later ``init_app(app)``. Neither starts a thread, and
    neither writes a file. An app with durable tasks opens its journal when its web server has started, or
    else at the first request: see ``start``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._app_ref = None if app is None else weakref.ref(app)  # weak: the app refers to its Background
        self._processors: list[StateProcessor] = []
        self._registry = Registry()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the app's ``BACKGROUND_*`` settings and prepare the app for background work.

        Raises ConfigurationError if a setting is not usable, RuntimeError if the app already has a
        Background.
        """
        if "background" in app.extensions:
            raise RuntimeError(
                f"app {app.name!r} already has a Background: call init_app, or Background(app), once per app"
            )
        state = BackgroundState(app, self._registry, self._processors)
        for periodic in self._registry.periodic.values():
            check_executor(periodic.task, state.settings.executors)
        app.extensions["background"] = self
        app.extensions[STATE] = state
        if "background" not in app.cli.commands:  # the app may have a command of this name
            app.cli.add_command(cli.background)
        response.guard(app, state.look_for_work)
        hosts.prepare(state, serves=in_flask_run())
        state.join_celery()
        signals.initialized.send(app, background=self)

    @overload
    def task(self, func: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[Options]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(self, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a function a task: ``@background.task``, or with options ``@background.task(timeout=30)``.

        ``name``: the task's name in logs and the journal; "module.function" by default. ``executor``: the
        name of the executor that runs its items; "asyncio" for coroutine functions and "thread" for others by
        default. ``timeout``: seconds after which a run's token fires, and a coroutine is cancelled. ``when``:
        "now", "response" to start the item when the response has been sent, or "commit" to enqueue it when
        the current SQLAlchemy session has committed. ``durable``: an item is on disk when enqueue returns,
        and survives the process. ``backend``: "celery" for a Celery cluster, "immediate" to run an item
        inside enqueue, or "local", whatever ``BACKGROUND_BACKEND`` says. ``fallback``: "local" to run items
        in this process while Celery cannot be reached; durable items wait in the journal meanwhile.

        ``max_attempts``: how many runs may fail before the item fails; 1 by default. ``backoff``: seconds
        between runs, or a function that takes the attempt's number and its exception and returns seconds;
        about 1, 2, 4 ... seconds by default. ``retry_on``: the exceptions that are worth another attempt.
        ``max_crashes``: how often a durable item may crash its process before the item fails; 3 by default.
        ``describe``: a function that takes the item's arguments, at enqueue, and returns a short text about
        the item: its ``description``, which logs, commands and pages show. Raises ConfigurationError.
        """

        check_names(options)

        def decorate(func: Callable[..., Any]) -> Task[..., Any]:
            task = make_task(self, func, options)
            self._registry.add(task._callee)
            return task

        return decorate if func is None else decorate(func)

    def periodic(
        self,
        cron: str | None = None,
        /,
        *,
        seconds: float | None = None,
        timezone: str = "UTC",
        overlap: bool = False,
        **options: Unpack[Options],
    ) -> Callable[[Callable[[], Any] | Task[[], Any]], Task[[], Any]]:
        """Enqueue a durable task again and again: ``@background.periodic("*/5 * * * *")`` or ``seconds=30``.

        ``cron``: a cron expression of five fields, in ``timezone`` (a name such as "Europe/Berlin"); needs
        ``flask-background[cron]``. One item is enqueued per machine, however many processes the app has. One
        run stands for all missed ones. A time is left out while an earlier item waits or, unless
        ``overlap=True``, runs. Makes the function a task with
        these ``options`` (see ``task``), or stands above ``@background.task(durable=True, ...)``. Raises
        ConfigurationError.
        """
        if (cron is None) is (seconds is None):
            raise ConfigurationError(
                'periodic() takes either a cron expression, such as "*/5 * * * *", or seconds='
            )
        schedule = Every(seconds) if seconds is not None else Cron(cron or "", timezone)
        check_names(options)

        def decorate(func: Callable[[], Any] | Task[[], Any]) -> Task[[], Any]:
            if isinstance(func, Task) and options:
                raise ConfigurationError(
                    f"{func.name} is already a task: give its options to one decorator, @background.task(...)"
                    " or @background.periodic(...)"
                )
            durable: Options = {"durable": True, **options}
            task = func if isinstance(func, Task) else self.task(**durable)(func)
            if (app := self._app) is not None:
                check_executor(task._callee, state_of(app).settings.executors)
            self._registry.add_periodic(task._callee, schedule, overlap)
            return task

        return decorate

    @overload
    def enqueue(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkItem[T]: ...
    @overload
    def enqueue(self, func: Callable[P, Future[T]], /, *args: P.args, **kwargs: P.kwargs) -> WorkItem[T]: ...
    @overload
    def enqueue(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkItem[R]: ...
    def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> WorkItem[Any]:
        """Enqueue a call of any callable, also of a lambda; see ``Task.enqueue``.

        The variables of a closure and the arguments of a partial are checked like arguments.
        """
        if isinstance(func, Task):
            return func.enqueue(*args, **kwargs)
        return submit_callable(self._state(), func, args, kwargs)

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[WorkItem[T]]:
        """Enqueue several calls, all or none: ``background.enqueue_many(save.call(row) for row in rows)``.

        Returns their work items in order. Tasks and their options (``save.using(...).call(row)``) may differ,
        save that ``when`` has to be "now" and that no item may go to Celery. Durable items are entered in one
        transaction. Raises what ``Task.enqueue`` raises: the error of an argument names its call, and
        QueueFull means that there is no room for all items. Then nothing was enqueued, and no upload was
        moved.
        """
        given = list(calls)
        for number, call in enumerate(given):
            if not isinstance(call, Call):
                raise TypeError(
                    f"enqueue_many() takes calls of tasks, such as save.call(1), and calls[{number}] is"
                    f" of the type {type(call).__name__}"
                )
            if call._finder is not self:
                raise ConfigurationError(
                    f"calls[{number}] ({call.task_name}) is of a task of another Background: give it to the"
                    " enqueue_many of that one"
                )
        if not given:
            return []
        from flask_background.enqueueing.batch import submit_many  # imported for apps that have batches

        return submit_many(self._state(), [call._bare for call in given])

    def state_processor(self, processor: StateProcessor) -> StateProcessor:
        """Add a function that is called in the request at every enqueue, and returns a dict of JSON values.

        Items find these values in ``current_item.state.values``. Enqueue raises StateError if a value is not
        JSON.
        """
        self._processors.append(processor)
        return processor

    def around_item(self, function: AroundItem) -> AroundItem:
        """Add a generator function that runs around each run of each item, inside its app context.

        The code before its ``yield`` runs before the item's function, the code after it when the run is over,
        once, wherever the item runs; ``current_item`` is the item. The ``yield`` raises what the item's
        function raises. What the generator function itself raises fails the run, like an error of the item's
        function; but to swallow the error does not make the run succeed. The function added first is the
        outermost. A direct call of a task is no item. Raises ConfigurationError.
        """
        self._add_around("around_item", self._registry.around_item, function)
        return function

    def around_enqueue(self, function: AroundEnqueue) -> AroundEnqueue:
        """Add a generator function that runs around each enqueue, in the context of the caller.

        It is called with the name of the task. Its ``yield`` stands for the enqueue, and gives the accepted
        WorkItem, or raises what enqueue raises. It may yield a dict with ``traceparent`` and ``tracestate``:
        the item carries this W3C trace context in its ``state``, in place of the request's. What the function
        raises before its ``yield``, enqueue raises; later errors are logged. The function added first is the
        outermost. Items of periodic tasks have no caller. Raises ConfigurationError.
        """
        self._add_around("around_enqueue", self._registry.around_enqueue, function, "task")
        return function

    def remove_around(self, function: Callable[..., object]) -> None:
        """Remove a function that ``around_item`` or ``around_enqueue`` has added; do nothing if none has."""
        for functions in (self._registry.around_item, self._registry.around_enqueue):
            if function in functions:
                functions.remove(function)

    def _add_around(
        self, decorator: str, functions: list[AroundFunction], function: AroundFunction, *args: str
    ) -> None:
        from flask_background.core.around import check_function  # imported for apps that have such functions

        check_function(decorator, function, *args)
        functions.append(function)

    def get(self, item_id: str) -> WorkItem[Any] | None:
        """Return the item with this id, or None.

        Every process of the app finds durable items, and items in a Celery cluster, until ``BACKGROUND_KEEP``
        after their end. Other items are found only in the process that enqueued them, while in flight or
        among those that ended last: at most 2,000 items, 32 MB of results and two hours. Raises JournalError
        or BrokerError if the journal or Celery cannot be asked.
        """
        state = self._state()
        if not is_text(item_id):
            return None
        item = state.backend.get(item_id)
        if (item is None or item._task.durable) and state.has_journal():
            item = state.durable.get(item_id) or item
        if item is None and state.has_celery():
            item = state.celery.get(item_id)
        return item

    def items(self, *, status: Status | None = None, task: str | None = None) -> list[WorkItem[Any]]:
        """Return the app's items in this process: those that ended last, then those in flight.

        Each list is in order, oldest first. If the app has a journal, the 1,000 durable items enqueued last
        precede them, whichever process they are in. Items in a Celery cluster are left out. ``status`` and
        ``task`` (a name) select items; raises ValueError if there is no such status.
        """
        state = self._state()
        if status is not None:
            status = Status(status)  # its text will do
        if task is not None and not is_text(task):
            return []  # no task has such a name
        durable: list[WorkItem[Any]] = [*state.durable.items(status, task)] if state.has_journal() else []
        ids = {item.id for item in durable}
        return durable + [
            item
            for item in state.backend.items()
            if item.id not in ids
            and (task is None or item.task_name == task)
            and (status is None or item.status is status)
        ]

    def stats(self) -> Stats:
        """Return how many of the app's items are queued and running in this process, and how many ended how.

        Durable items that wait in the journal for a free process, and items in a Celery cluster, are not
        counted.
        """
        return self._state().backend.stats()

    @property
    def task_names(self) -> KeysView[str]:
        """The names of the tasks, in the order in which the tasks were made."""
        return self._registry.tasks.keys()

    @property
    def monitor(self) -> Monitor:
        """A ``Monitor``, for pages and metrics: it looks at items and processes, and acts on them."""
        from flask_background.monitoring.monitor import Monitor  # imported for processes that look

        return Monitor(self._state())

    def enable_monitoring(self, app: Flask | None = None) -> None:
        """Let the app have a journal even if none of its tasks is durable, because something looks at it.

        The journal is how the processes of an app tell each other of the items in their memory. Whatever
        shows or exports what ``monitor`` returns calls this while the app is made; a second call changes
        nothing. ``app``: the app, if it is not the current one or the one given to the constructor.
        """
        state = self._state() if app is None else state_of(app)
        state.is_monitored = True

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no item is queued or running; return False after timeout seconds (None: no limit).

        Durable items count if this process runs them, or would run them. Items that run in another process or
        in a Celery cluster do not count: wait for their handles.
        """
        return self._state().wait_idle(timeout)

    def start(self) -> None:
        """Run items that earlier processes left, and periodic tasks, from now on: not from the first request.

        gunicorn, ``flask run`` and other servers that a command starts need no call. A script that serves the
        app itself calls this method when the app is complete. Raises nothing: the log says if the journal
        cannot be opened.
        """
        state = self._state()
        if state.holds_items:  # otherwise a child process that has loaded the script
            state.look_for_work()

    def stop(self, grace: float | None = None) -> list[WorkItem[Any]]:
        """Stop now: fire the tokens, and give items grace seconds (None: the app's grace period).

        Returns the items that had not ended. New items are refused. For scripts, tests and unknown hosts;
        gunicorn and an ordinary Python process are stopped automatically.
        """
        return self._state().backend.stop(grace)

    @property
    def backend(self) -> LocalBackend:
        """The former ``app.extensions["background"].backend`` of development versions before 0.1."""
        warnings.warn(
            "Background.backend is internal: use the methods of Background, such as stats()",
            DeprecationWarning,
            stacklevel=2,
        )
        return self._state().backend

    @property
    def _app(self) -> Flask | None:
        """The app given to the constructor, while the app is alive."""
        return None if self._app_ref is None else self._app_ref()

    def _change_app(self, app: Flask | None) -> Flask | None:
        """Use another app where no app is current, in a test; return the one before."""
        before, self._app_ref = self._app, None if app is None else weakref.ref(app)
        return before

    def _state(self) -> BackgroundState:
        """Return the state of the current app, else of the app given to the constructor."""
        app: Flask | None
        try:
            app = _current_app()
        except RuntimeError:
            app = self._app
            if app is None:
                why = (
                    "Background does not know which app to use"
                    if self._app_ref is None
                    else "the app of this Background is gone: keep a reference to it"
                )
                raise NotInitializedError(
                    f"{why}. Use the Background in a view, a command or an item, or inside"
                    " `with app.app_context():`"
                ) from None
        if app.extensions.get("background") is not self:
            raise NotInitializedError(
                f"this Background was not initialised for app {app.name!r}: call background.init_app(app)"
            )
        state: BackgroundState = app.extensions[STATE]
        return state
