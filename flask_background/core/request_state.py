"""The request values that an item may see: copied at enqueue, frozen, and free of secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from werkzeug.wsgi import get_host

from flask_background.errors import StateError

if TYPE_CHECKING:
    from flask import Flask, Request
    from werkzeug.routing import MapAdapter

StateProcessor = Callable[[], Mapping[str, Any]]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_KEPT_AS = "_flask_background_state"  # an attribute of the request


class RequestState(NamedTuple):
    """A copy of values of the request that enqueued the item, without headers, cookies, form and session.

    ``values`` is a dict of all values that the state processors returned; ``traceparent`` and ``tracestate``
    are the W3C trace context, or None: that of the request, or what ``Background.around_enqueue`` made of it.
    Outside of a request the state is false, its texts are "", and its ``values`` are empty.
    """

    method: str = ""
    scheme: str = ""
    host: str = ""
    root_path: str = ""
    path: str = ""
    endpoint: str | None = None
    remote_addr: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    values: Mapping[str, Any] = _NOTHING

    def __bool__(self) -> bool:
        return self.method != ""

    @property
    def url_root(self) -> str:
        """The root URL of the app, as in ``https://example.com/shop/``; "" outside of a request."""
        return f"{self.scheme}://{self.host}{self.root_path}/" if self else ""

    def _with_trace(self, traceparent: str | None = None, tracestate: str | None = None) -> RequestState:
        """Return the state with another W3C trace context; one outside of a request stays false."""
        return self._replace(traceparent=traceparent, tracestate=tracestate)

    @classmethod
    def _capture(cls, request: Request, processors: Iterable[StateProcessor] = ()) -> RequestState:
        """Copy the request's values; raise StateError if a state processor's values are not JSON.

        All items of a request share one copy.
        """
        state: RequestState | None = getattr(request, _KEPT_AS, None)
        if state is None or state.endpoint is None:  # routing may set the endpoint after a first copy
            environ = request.environ
            host = environ.get("HTTP_HOST")
            if host is None or ":" in host:  # otherwise get_host, which costs 1 µs, would return the same
                host = get_host(environ)  # leaves out the default port of the scheme
            values = (
                request.method,
                request.scheme,
                host,
                request.root_path,
                request.path,
                request.endpoint,
                request.remote_addr,
                environ.get("HTTP_TRACEPARENT"),
                environ.get("HTTP_TRACESTATE"),
                _NOTHING,
            )
            state = tuple.__new__(cls, values)  # cls(*values) takes 0.3 µs more, and most views enqueue once
            setattr(request, _KEPT_AS, state)
        return state._replace(values=_processed(processors)) if processors else state


#: The state of an item that was enqueued outside of a request.
NO_REQUEST = RequestState()


def _processed(processors: Iterable[StateProcessor]) -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    for processor in processors:
        name = getattr(processor, "__qualname__", repr(processor))
        returned = processor()
        if not isinstance(returned, Mapping):
            raise StateError(
                f"state processor {name} returned {type(returned).__name__}; return a dict of JSON values"
            )
        for key, value in returned.items():
            values[key] = _copy(name, key, value)
    return MappingProxyType(values)


def _copy(processor: str, key: object, value: Any) -> Any:
    try:
        text = json.dumps({key: value}, allow_nan=False)
        copy = json.loads(text)[key]
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise StateError(
            f"state processor {processor} returned {key!r}, which is not JSON ({error}): return strings,"
            " numbers, booleans, None, and lists and dicts of them under string keys, such as"
            ' {"user_id": current_user.id}'
        ) from None
    return copy


class StateUrls:
    """A stand-in for the URL adapter of the request's root; the real adapter is bound at first use."""

    __slots__ = ("_adapter", "_app", "_state")

    def __init__(self, app: Flask, state: RequestState) -> None:
        self._app = app
        self._state = state
        self._adapter: MapAdapter | None = None

    def __getattr__(self, name: str) -> Any:
        if self._adapter is None:
            self._adapter = self._bind()
        return getattr(self._adapter, name)

    def _bind(self) -> MapAdapter:
        state = self._state
        # The request's own adapter makes the same check, so no URL is built from an untrusted Host header.
        host = get_host(
            {"wsgi.url_scheme": state.scheme, "HTTP_HOST": state.host},
            self._app.config["TRUSTED_HOSTS"],
        )
        return self._app.url_map.bind(host, script_name=state.root_path or "/", url_scheme=state.scheme)
