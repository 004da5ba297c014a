"""``when="response"``: items wait until the response has been sent, and are dropped if the view failed.

A streamed response has been sent when its stream has ended. Items that the stream enqueues wait for that,
too.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from flask import got_request_exception, has_request_context, request
from werkzeug.wsgi import ClosingIterator, FileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask

    from flask_background.core.backend import Backend
    from flask_background.core.item import WorkItem

# A key in the environ of a request, which an app may pass on to another app: the items that wait for the
# response.
_KEY = "flask_background.held"

Held = list[tuple["Backend[Any]", "WorkItem[Any]"]]


class ResponseGate:
    """WSGI middleware around ``app.wsgi_app``, which sees when the server has sent the response.

    ``Response.call_on_close`` does not serve: an ``after_request`` function may replace the response, and
    Werkzeug does not call it for files that are passed through.
    """

    def __init__(self, app: Flask, at_first: Callable[[], object]) -> None:
        inner: WSGIApplication = app.wsgi_app
        if getattr(inner, "__self__", None) is app:
            # A weak method: a method of the app in an attribute of the app would keep the app alive until the
            # next gc.
            self._find_inner: Callable[[], WSGIApplication | None] = weakref.WeakMethod(inner)
        else:
            self._find_inner = lambda: inner
        self._at_first = at_first
        self._pid: int | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        wsgi_app = self._find_inner()
        if wsgi_app is None:
            raise RuntimeError("the Flask app is gone: keep a reference to it, not to its wsgi_app alone")
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._at_first()
        held: Held = []
        outer = environ.get(_KEY)  # the gate of an app that passes this request on
        environ[_KEY] = held
        try:
            body = wsgi_app(environ, start_response)
        except BaseException as error:
            environ[_KEY] = outer
            _drop(held, error)
            raise
        if outer is not None:
            # Items that this app's stream enqueues wait for the end of the whole response.
            environ[_KEY] = outer
        elif not held and _is_complete(body, environ):
            environ[_KEY] = None
            return body

        def sent() -> None:
            if environ.get(_KEY) is held:
                environ[_KEY] = None  # items that are enqueued after this start at once
            _release(held)

        return _Gated(body, sent)


class _Gated(ClosingIterator):
    """A response's body that reports its end, even if code that closes the response raises."""

    def __init__(self, body: Iterable[bytes], sent: Callable[[], None]) -> None:
        super().__init__(body)
        self._sent = sent

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._sent()


def guard(app: Flask, at_first: Callable[[], object]) -> None:
    """Put the gate before app, and drop waiting items when a view ends in an unhandled exception.

    ``at_first`` is called at the first request in each process.
    """
    app.wsgi_app = ResponseGate(app, at_first)  # type: ignore[method-assign]
    got_request_exception.connect(_view_failed, app)


def hold() -> Held | None:
    """Return the items that wait for the current response; None if no response is still to be sent."""
    if not has_request_context():
        return None
    held: Held | None = request.environ.get(_KEY)
    return held


def _is_complete(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Return whether no code of the app runs while the server sends this body.

    A file has to reach the server unwrapped, so that the system can send it. If the server's wrapper of files
    is a function, as uWSGI's is, the class of a wrapped file is unknown.
    """
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    if isinstance(wrapper, type):
        return isinstance(body, (tuple, list, FileWrapper, wrapper))
    return not isinstance(body, (ClosingIterator, GeneratorType))


def _view_failed(app: Flask, exception: BaseException, **_: Any) -> None:
    held = hold()
    if held:
        _drop(held, exception)


def _release(held: Held) -> None:
    _take_each(held, lambda backend, item: backend.start_held(item))


def _drop(held: Held, error: BaseException) -> None:
    why = f"its view ended with {type(error).__name__}"
    _take_each(held, lambda backend, item: backend.cancel_held(item, why))


def _take_each(held: Held, take: Callable[[Backend[Any], WorkItem[Any]], None]) -> None:
    """Take every item that waits, even if one cannot be taken; the first error is raised at the end."""
    first: BaseException | None = None
    while held:
        backend, item = held.pop(0)
        try:
            take(backend, item)
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first
