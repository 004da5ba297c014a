"""The answers of ``allow``: who may look at the dashboard, and who may act."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

from flask import current_app
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response

from flask_background.errors import ConfigurationError

Role = Literal["admin", "read"]
#: A role, a role with the visitor's name, None for nobody, or a response such as a redirect to a login.
Answer = Role | tuple[Role, str] | Response | None
Allow = Callable[[], Answer | Awaitable[Answer]]

_ALLOWED = '"admin", "read", a pair of one of these and a name, None, or a response'


class Visitor(NamedTuple):
    """Somebody who may look, and act if ``role`` is "admin". ``name``: for the log, if ``allow`` gave one."""

    role: Role
    name: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the visitor may act."""
        return self.role == "admin"


def check_allow(allow: object) -> Allow:
    """Return ``allow``; raise ConfigurationError if it is missing, or cannot be called."""
    if callable(allow):
        return allow
    what = "needs allow" if allow is None else f"cannot call allow={allow!r:.100}"
    raise ConfigurationError(
        f"create_dashboard() {what}: pass a function that says who may see the dashboard. Each request calls"
        f" the function, which returns {_ALLOWED}"
    )


def ask(allow: Allow) -> Visitor | Response:
    """Ask ``allow`` about the current request; return the visitor, or the response for one who may not look.

    Raises Forbidden if nobody may look, ConfigurationError if the answer is none that is allowed.
    """
    answer: Any = current_app.ensure_sync(allow)()
    if answer is None:
        raise Forbidden
    if isinstance(answer, Response):
        return answer
    role, name = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    # A truth value, a user or a number gives no access: only the texts do.
    if isinstance(role, str) and role in ("admin", "read") and (name is None or isinstance(name, str)):
        return Visitor("admin" if role == "admin" else "read", name or None)
    raise ConfigurationError(
        f"the dashboard's allow returned {_kind(answer)}, and nobody was let in: return {_ALLOWED}"
    )


def _kind(answer: object) -> str:
    if isinstance(answer, (str, bool, int)):
        return repr(answer)[:100]
    return f"an object of the type {type(answer).__name__}"
