"""One request to the dashboard: who makes it, and how it is answered."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, cached_property, update_wrapper
from typing import TYPE_CHECKING, Any

from flask import current_app, make_response, redirect, request, url_for
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import Forbidden, HTTPException
from werkzeug.wrappers import Response

from flask_background.dashboard import assets, charts, text
from flask_background.dashboard.access import Allow, Visitor, ask
from flask_background.dashboard.signing import FormToken, check_secret_key, read_notice, sign_notice
from flask_background.errors import ConfigurationError, EnqueueError

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor

View = Callable[..., Response]

#: Nothing but the dashboard's own style sheet, script and answers: whatever an item's text holds, it is text.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
#: A request of the script, for the live parts of the page alone.
LIVE = "X-Background-Live"


class Visit:
    """A request of a visitor whom ``allow`` has let in."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.token = FormToken(visitor)
        self.now = datetime.now(UTC)
        #: Whether only the live parts of the page are wanted.
        self.is_live = LIVE in request.headers

    @cached_property
    def monitor(self) -> Monitor:
        """The monitor of the current app."""
        background = current_app.extensions.get("background")
        if background is None:
            raise ConfigurationError(
                f"app {current_app.name!r} has a dashboard and no Background: call Background(app)"
            )
        background.enable_monitoring()
        monitor: Monitor = background.monitor
        return monitor

    @property
    def by(self) -> str:
        """The visitor, for the log."""
        return self.visitor.name or f"a visitor from {request.remote_addr}"

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page; of a page that is live already, only its live parts."""
        page = _environment().get_template(template)
        html = page.render(
            layout="live.html" if self.is_live else "page.html",
            visit=self,
            notice=read_notice(request.args.get("notice")),
            process=os.getpid(),
            endpoint=(request.endpoint or "").rpartition(".")[2],
            app_name=current_app.name,
            **values,
        )
        response = make_response(html, status)
        if self.visitor.is_admin and not self.is_live:
            self.token.keep(response)
        return response

    @cached_property
    def form_fields(self) -> dict[str, str]:
        """The hidden fields of a form: its token, and that of the app's own protection (Flask-WTF)."""
        fields = {"token": self.token.make()}
        foreign: Any = current_app.jinja_env.globals.get("csrf_token")
        if foreign is not None:
            fields[current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")] = foreign()
        return fields

    def back(self, message: str, endpoint: str, **values: Any) -> Response:
        """Send the visitor to a page, which shows a message."""
        return redirect(url_for(f".{endpoint}", notice=sign_notice(message), **values), 303)


def guarded(allow: Allow, view: Callable[..., Response], *, acts: bool = False) -> View:
    """Return the view behind ``allow``, and the checks of a form if the view acts."""

    def answer(**values: Any) -> Response:
        visit = None
        try:
            check_secret_key()
            visitor = ask(allow)
            if isinstance(visitor, Response):
                return _secured(visitor)
            visit = Visit(visitor)
            if acts:
                if not visitor.is_admin:
                    raise Forbidden("You may look, but not act.")
                visit.token.check()
            response = view(visit, **values)
        except (HTTPException, EnqueueError) as error:
            response = _complaint(visit, error)
        return _secured(response)

    return update_wrapper(answer, view)


def _complaint(visit: Visit | None, error: HTTPException | EnqueueError) -> Response:
    """Return a page about an error: to a stranger, one that says nothing of the app."""
    if error.response is not None:  # of abort(response)
        return make_response(error.response)
    status = error.code or 500
    # Visitors see the general text of such an error, and operators the cause and the cure.
    why = str(error) if isinstance(error, EnqueueError) else error.description
    if visit is None:
        html = _environment().get_template("refused.html").render(status=status, title=error.name)
        response: Response = make_response(html, status)
    else:
        response = visit.render("error.html", status, title=error.name, why=why)
    for name, value in error.get_headers():
        if name.lower() in ("retry-after", "www-authenticate", "allow"):
            response.headers[name] = value
    return response


def _secured(response: Response) -> Response:
    response.headers.update(
        {
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }
    )
    return response


@cache
def _environment() -> Environment:
    """Return an environment of the dashboard's own: what an app does to its own one changes no page here."""
    environment = Environment(
        loader=PackageLoader("flask_background.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(url_for=url_for, asset=assets.address, charts=charts)
    for name in ("shown", "shown_lines", "number", "duration", "moment", "distance", "bidi", "pretty"):
        environment.filters[name] = getattr(text, name)
    environment.globals.update(count=text.count, share=text.share)
    return environment
