"""The style sheet and the script, which hold no data and may be kept by browsers for good."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

from flask import url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

_TYPES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "icon.svg": "image/svg+xml"}


def address(name: str) -> str:
    """Return the address of a file, which is another one after each change of the file."""
    return url_for(".asset", name=name, v=_read(name)[1])


def asset(name: str) -> Response:
    """Answer with a file."""
    if name not in _TYPES:
        raise NotFound
    response = Response(_read(name)[0], mimetype=_TYPES[name])
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    return response


@cache
def _read(name: str) -> tuple[bytes, str]:
    data = (files("flask_background.dashboard") / "static" / name).read_bytes()
    return data, sha256(data).hexdigest()[:12]
