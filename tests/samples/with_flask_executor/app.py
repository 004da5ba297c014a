"""The sample app, with Flask-Executor."""

from __future__ import annotations

from flask import Flask, request, url_for
from flask_executor import Executor

from .. import shop

executor = Executor()


def send_welcome(address: str) -> None:
    """Welcome somebody."""
    shop.send(address, f"Welcome! {url_for('confirm', address=address, _external=True)}")


def write_report(count: int) -> int:
    """Write a report."""
    for number in range(count):
        shop.write_page(number)
    return count


def create_app() -> Flask:
    """Make the app."""
    app = Flask("shop")
    executor.init_app(app)

    @app.post("/signup")
    def signup() -> str:
        address = request.form["address"]
        if "@" not in address:
            return "No address"
        executor.submit(send_welcome, address)
        if address.startswith("broken"):
            raise ValueError("the view fails")
        return "Welcome"

    @app.get("/confirm/<address>")
    def confirm(address: str) -> str:
        return "Confirmed"

    @app.post("/report")
    def report() -> str:
        executor.submit(write_report, request.form["pages"])
        return "Accepted"

    return app
