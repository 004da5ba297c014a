"""The sample app, with RQ."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask, current_app, request, url_for
from redis import Redis
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from .. import shop


def send_welcome(address: str, link: str) -> None:
    """Welcome somebody."""
    shop.send(address, f"Welcome! {link}")


def send_reminder(address: str) -> None:
    """Remind somebody."""
    shop.send(address, "Are you still there?")


def write_report(count: int) -> int:
    """Write a report."""
    for number in range(count):
        shop.write_page(number)
    return count


def queue() -> Queue:
    """The queue of the app."""
    return current_app.extensions["queue"]


def create_app(redis: Redis) -> Flask:
    """Make the app."""
    app = Flask("shop")
    app.extensions["queue"] = Queue(connection=redis, serializer=JSONSerializer)

    @app.post("/signup")
    def signup() -> str:
        address = request.form["address"]
        if "@" not in address:
            return "No address"
        link = url_for("confirm", address=address, _external=True)
        queue().enqueue(send_welcome, address, link, retry=Retry(max=2, interval=60))
        queue().enqueue_in(timedelta(days=1), send_reminder, address)
        return "Welcome"

    @app.get("/confirm/<address>")
    def confirm(address: str) -> str:
        return "Confirmed"

    @app.post("/report/<user>")
    def report(user: str) -> str:
        job_id = f"report-{user}"
        try:
            queue().enqueue(write_report, 3, job_id=job_id, job_timeout=300, unique=True)
        except DuplicateJobError:
            pass
        return job_id

    return app
