"""The safety of every page: other sites' forms are refused, and errors are shown as pages."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from flask import Flask, abort, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, SecurityError
from werkzeug.wrappers import Response

# How much of a refused upload is still read, and for how long.
DRAIN_BYTES = 256 * 1024 * 1024
DRAIN_SECONDS = 20.0

HEADERS = {
    # Everything comes from here; the outbox shows the pictures of its letters as data.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def init_app(app: Flask) -> None:
    """Put the demo's defences and error pages into an app."""
    app.before_request(refuse_other_sites)
    app.after_request(add_headers)
    app.register_error_handler(HTTPException, error_page)


def refuse_other_sites() -> None:
    """Refuse a form that another site's page sends (CSRF). Browsers say where it comes from."""
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        ours = site in {"same-origin", "none"}
    elif origin is not None:
        ours = urlsplit(origin).netloc == request.host
    else:
        ours = True  # no browser, so nobody's cookies and nobody's click
    if not ours:
        abort(403, "This form was sent from another site, so nothing was done.")


def add_headers(response: Response) -> Response:
    """Tell browsers to load nothing from elsewhere and to guess nothing."""
    response.headers.update(HEADERS)
    return response


def error_page(error: HTTPException) -> ResponseReturnValue:
    """Answer an error with a page that says what to do, and the error's own status and headers."""
    if isinstance(error, RequestEntityTooLarge):
        drain()
    if isinstance(error, SecurityError):
        return error  # the host is not ours, so a page could not link anywhere
    response = error.get_response()
    response.data = render_template("error.html", error=error)
    return response


def drain() -> None:
    """Read what a browser still sends: one that is cut off shows a broken connection, no answer."""
    if not request.environ.get("wsgi.input_terminated"):
        return  # the server (Flask's own) would wait for more than there is, and does this itself
    until = time.monotonic() + DRAIN_SECONDS
    left = DRAIN_BYTES
    stream = request.environ["wsgi.input"]
    while left > 0 and time.monotonic() < until and (chunk := stream.read(64 * 1024)):
        left -= len(chunk)
