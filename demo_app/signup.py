"""The sign-up: a welcome is drawn and mailed once the visitor has the answer."""

from __future__ import annotations

import re
import smtplib

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_mail import Message

from flask_background import current_item

from . import files, outbox, pictures
from .extensions import background, mail
from .items import end_if_asked
from .status import look_up

bp = Blueprint("signup", __name__, url_prefix="/signup")

SECONDS_NEEDED = 5  # to mail a letter, unless the server is slow

# The addresses that browsers accept too. None of their characters can start another header.
ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
)


# A server that is down is asked again. What it raises (SMTPException, timeouts) are OSErrors.
@background.task(durable=True, max_attempts=3, backoff=2, retry_on=(OSError,))
def send_welcome(name: str, address: str) -> str | None:
    """Draw a card and mail it, with a link back to the gallery.

    Returns why that cannot be; None once it is sent. If the worker is killed
    right after the mail server took the letter, another worker sends it again.
    """
    current_item.report_progress(0, 2, "Drawing the card")
    card = pictures.welcome_card(name)
    end_if_asked(SECONDS_NEEDED)
    current_item.report_progress(1, 2, "Mailing it")
    # The link leads to where the visitor came from, without a SERVER_NAME.
    link = url_for("gallery.index", _external=True)
    message = Message(f"Welcome, {name}!", recipients=[address])
    message.body = render_template("welcome.txt", name=name, link=link)
    message.attach("welcome.png", "image/png", card)
    try:
        mail.send(message)
    except smtplib.SMTPRecipientsRefused:  # another attempt would not help
        return "The mail server takes no letters to this address."
    current_item.report_progress(2, 2, "Sent")
    return None


@bp.get("")
def index() -> str:
    """Show the form, and the letters that were sent."""
    return page()


@bp.post("")
def join() -> ResponseReturnValue:
    """Sign somebody up. The letter is begun when the response is out."""
    name = request.form.get("name", "").strip()
    address = request.form.get("address", "").strip()
    errors = {}
    if not (1 <= len(name) <= 80 and name.isprintable()):
        errors["name"] = "Please give a name of up to 80 letters."
    if not (len(address) <= 254 and ADDRESS.fullmatch(address)):
        example = "ada@example.com"
        errors["address"] = f"Please give an e-mail address, such as {example}."
    if errors:
        return page(errors), 400
    item = send_welcome.using(when="response").enqueue(name, address)
    return redirect(url_for(".index", item=item.id), 303)


def page(errors: dict[str, str] | None = None) -> str:
    """Show the form, how the visitor's letter stands, and the outbox."""
    item = look_up(item_id) if (item_id := request.args.get("item")) else None
    return render_template(
        "signup.html",
        errors=errors or {},
        item=item,
        letters=outbox.letters(files.folder("outbox")),
        functions=[join, send_welcome],
    )
