"""Signed texts: the tokens of forms against cross-site requests, and the message after an action."""

from __future__ import annotations

import hmac
import re
import secrets
from typing import Any
from urllib.parse import urlsplit

from flask import current_app, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response

from flask_background.dashboard.access import Visitor
from flask_background.errors import ConfigurationError

#: How long a form may be open, in seconds.
FORM_AGE = 12 * 3600
#: How long an address with a message shows it, in seconds.
NOTICE_AGE = 60

_COOKIE = "background_csrf"
_NONCE = re.compile(r"[\w-]{24}", re.ASCII)


class FormToken:
    """The token of the forms of one visitor, which is bound to a cookie and to the visitor's name."""

    def __init__(self, visitor: Visitor) -> None:
        self._name = visitor.name
        nonce = request.cookies.get(_COOKIE, "")
        self._is_new = _NONCE.fullmatch(nonce) is None
        self._nonce = secrets.token_urlsafe(18) if self._is_new else nonce

    def make(self) -> str:
        """Return a token for a form."""
        return str(_serializer("form").dumps([self._nonce, self._name]))

    def keep(self, response: Response) -> None:
        """Set the cookie, if the visitor has none yet."""
        if self._is_new:
            response.set_cookie(
                _COOKIE,
                self._nonce,
                path=url_for(".overview"),
                secure=request.is_secure,
                httponly=True,
                samesite="Lax",
            )

    def check(self) -> None:
        """Raise Forbidden if the request comes from another site, or has no token, or another visitor's."""
        if not _is_same_origin():
            raise Forbidden("The request comes from another site, so nothing was done.")
        try:
            nonce, name = _serializer("form").loads(request.form.get("token", ""), max_age=FORM_AGE)
        except (BadData, ValueError, TypeError):
            raise Forbidden(
                "The form is too old, or not of this dashboard, so nothing was done. Go back, reload the page"
                " and try again."
            ) from None
        if self._is_new or not hmac.compare_digest(nonce, self._nonce) or name != self._name:
            raise Forbidden(
                "The form belongs to another visitor, or the browser keeps no cookies, so nothing was done."
                " Go back, reload the page and try again."
            )


def sign_notice(text: str) -> str:
    """Return a message in a form that an address can carry, and that nobody else can make."""
    return str(_serializer("notice").dumps(text))


def read_notice(signed: str | None) -> str | None:
    """Return a message that ``sign_notice`` has signed within the last minute, else None."""
    if not signed:
        return None
    try:
        return str(_serializer("notice").loads(signed, max_age=NOTICE_AGE))
    except BadData:
        return None


def check_secret_key() -> None:
    """Raise ConfigurationError if the app has no secret key."""
    if not current_app.secret_key:
        raise ConfigurationError(
            "the dashboard signs its forms, and the app has no secret key: set SECRET_KEY in app.config, to"
            " the same value in all processes"
        )


def _serializer(purpose: str) -> URLSafeTimedSerializer:
    check_secret_key()
    keys: list[Any] = [*(current_app.config.get("SECRET_KEY_FALLBACKS") or ()), current_app.secret_key]
    return URLSafeTimedSerializer(keys, salt=f"flask_background.dashboard.{purpose}")


def _is_same_origin() -> bool:
    """Whether the browser says that the app's own page has sent the request, as far as it says so."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        # No page can set this header. "none": the visitor has sent the form anew, say after a restart.
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return True  # the token decides
    try:
        parts = urlsplit(origin)
        there = parts.hostname, parts.port or _port(parts.scheme)
        here = urlsplit(f"//{request.host}")
        # The scheme is not compared: the app may not know of the proxy that speaks https.
        return there == (here.hostname, here.port or _port(parts.scheme))
    except ValueError:
        return False


def _port(scheme: str) -> int | None:
    return {"http": 80, "https": 443}.get(scheme)
