"""The extensions, made without an app so that every module may import them."""

from __future__ import annotations

import smtplib
import ssl

import flask_mail
from flask import current_app
from flask_sqlalchemy import SQLAlchemy

from flask_background import Background


class Connection(flask_mail.Connection):
    """A connection that gives up on a server that does not answer: Flask-Mail's own waits for ever."""

    def configure_host(self) -> smtplib.SMTP:
        """Connect, and log in where that is wanted."""
        host = smtplib.SMTP(self.mail.server, self.mail.port, timeout=current_app.config["MAIL_TIMEOUT"])
        try:
            if self.mail.use_tls:
                host.starttls(context=ssl.create_default_context())
            if self.mail.username and self.mail.password:
                host.login(self.mail.username, self.mail.password)
        except BaseException:
            host.close()
            raise
        return host


class Mail(flask_mail.Mail):
    """Flask-Mail, with those connections."""

    def connect(self) -> Connection:
        """Open a connection to the app's mail server."""
        return Connection(current_app.extensions["mail"])


background = Background()
mail = Mail()
db = SQLAlchemy()
