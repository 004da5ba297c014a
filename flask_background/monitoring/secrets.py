"""The part of a request's state that is shown: values whose names sound secret are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flask_background.core.request_state import RequestState

_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|passw|secret|token|api_?key|auth|credential|cookie|session|csrf|signature|private",
    re.IGNORECASE,
)
_HIDDEN = "(hidden)"
# How deep values are looked into.
_DEEPEST = 8


def without_secrets(state: RequestState) -> dict[str, object]:
    """Return the method, URL and values of a state; a value with a secret's name is replaced by a note."""
    if not state:
        return {}
    return {
        "method": state.method,
        "url": f"{state.scheme}://{state.host}{state.root_path}{state.path}",
        "endpoint": state.endpoint,
        "remote_addr": state.remote_addr,
        "values": _shown(state.values, _DEEPEST),
    }


def _shown(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        if not depth:
            return _HIDDEN
        return {
            str(name): _HIDDEN if _SECRET.search(str(name)) else _shown(one, depth - 1)
            for name, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_shown(one, depth - 1) for one in value] if depth else _HIDDEN
    return value
