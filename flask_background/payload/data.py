"""The text form of a durable item's arguments, result and state; a value read back has the same types.

The text is JSON with the tags of Flask's session cookies, and a few more. Allowed values are None, bool, int,
float, str, Markup, bytes, UUID, Decimal, date and datetime, and lists, tuples and dicts of them with string
keys. A text never names code, so reading one imports nothing and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from flask_background.core.request_state import RequestState
from flask_background.errors import PayloadTooLargeError
from flask_background.payload.arguments import positional
from flask_background.payload.data_check import check, find_wrong, wrong_key
from flask_background.payload.tagged_json import (
    PLAIN,
    Rebuild,
    Replace,
    Serializer,
    encode,
    may_have_upload,
    once,
)


def dump(value: Any, what: str, *, max_bytes: int | None = None) -> str:
    """Return value as text. Raises SerializationError or PayloadTooLargeError; ``what`` names the value."""
    check(what, value, uploads=False)
    return _fitting(_plain.dumps(value), what, max_bytes)


def load(text: str) -> Any:
    """Return the value of a text that ``dump`` made."""
    return _decode(text)


def dump_call(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    replace: Replace | None = None,
    max_bytes: int | None = None,
) -> str:
    """Return the arguments of a call of func as text.

    ``replace`` gets each upload once, and returns a reference, a dict of JSON values, to store in its place;
    without ``replace`` an upload is refused. ``replace`` is called only after all arguments have passed the
    check. Raises SerializationError, which names the argument, or PayloadTooLargeError, perhaps after
    ``replace`` was called.
    """
    uploads = replace is not None
    for index, value in enumerate(args):
        if (wrong := find_wrong(value, uploads)) is not None:
            raise wrong.error(positional(func, index))
    for name, value in kwargs.items():
        if (wrong := wrong_key(name)) is not None:
            raise wrong.error("the call")
        check(name, value, uploads)
    if _all_plain(args) and _all_plain(kwargs.values()) and all(map(str.isidentifier, kwargs)):
        text = encode((args, kwargs))  # the usual call: no value and no name that looks like a tag
    else:
        serializer = _plain if replace is None else Serializer(replace=once(replace))
        text = serializer.dumps([list(args), dict(kwargs)])
    return _fitting(text, "the arguments", max_bytes)


def load_call(text: str, *, rebuild: Rebuild | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments from a call's text. ``rebuild`` turns each reference back into an upload.

    Without ``rebuild`` references stay dicts.
    """
    if rebuild is None or not may_have_upload(text):
        args, kwargs = _decode(text)
    else:
        args, kwargs = Serializer(rebuild=rebuild).loads(text)
    return tuple(args), kwargs


def dump_state(state: RequestState) -> str:
    """Return the state as text; its values are JSON already."""
    fields = state._asdict()
    fields["values"] = dict(state.values)
    return encode(fields)


def load_state(text: str) -> RequestState:
    """Return the frozen state from its text."""
    fields = json.loads(text)
    # Journals of earlier versions may lack some fields, which have defaults.
    return RequestState(**{**fields, "values": MappingProxyType(fields["values"])})


def _all_plain(values: Iterable[Any]) -> bool:
    return PLAIN.issuperset(map(type, values))


def _fitting(text: str, what: str, max_bytes: int | None) -> str:
    if max_bytes is not None and len(text) > max_bytes:  # the text is ASCII
        raise PayloadTooLargeError(
            f"{what} would take {len(text)} bytes, and BACKGROUND_MAX_PAYLOAD allows {max_bytes}: keep the"
            " data in a file or the database and pass its name or key, or allow more"
        )
    return text


_plain = Serializer()
# One decoder for all texts: ``json.loads`` would make one for each, which takes 3 µs.
_decode: Callable[[str], Any] = json.JSONDecoder(object_hook=_plain.untag).decode
