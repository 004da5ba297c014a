"""The sample app, with Flask-Background."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask, request, url_for

from flask_background import Background, current_item

from .. import shop

background = Background()


@background.task(max_attempts=3, backoff=60, retry_on=(OSError,), when="response")
def send_welcome(address: str) -> None:
    """Welcome somebody."""
    shop.send(address, f"Welcome! {url_for('confirm', address=address, _external=True)}")


@background.task
def send_reminder(address: str) -> None:
    """Remind somebody."""
    shop.send(address, "Are you still there?")


@background.task(durable=True, timeout=300)
def write_report(count: int) -> int:
    """Write a report, or leave nothing of it."""
    for number in range(count):
        if current_item.token.cancelled:
            shop.remove_pages()
            current_item.token.raise_if_cancelled()
        shop.write_page(number)
    return count


@background.periodic("0 3 * * *")
def clean_up() -> None:
    """Clean up at night."""
    shop.clean_up(f"{current_item.started_at:%H}")


def create_app() -> Flask:
    """Make the app."""
    app = Flask("shop")
    background.init_app(app)

    @app.post("/signup")
    def signup() -> str:
        address = request.form["address"]
        if "@" not in address:
            return "No address"
        send_welcome.enqueue(address)
        if address.startswith("broken"):
            raise ValueError("the view fails")
        send_reminder.using(delay=timedelta(days=1)).enqueue(address)
        return "Welcome"

    @app.get("/confirm/<address>")
    def confirm(address: str) -> str:
        return "Confirmed"

    @app.post("/report/<user>")
    def report(user: str) -> str:
        return write_report.using(key=user).enqueue(request.form.get("pages", 3, int)).id

    return app
