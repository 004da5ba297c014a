"""The sample app, with Celery as Flask's documentation has it."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, shared_task
from celery.schedules import crontab
from flask import Flask, request, url_for

from .. import shop


@shared_task(autoretry_for=(OSError,), max_retries=2, default_retry_delay=60, ignore_result=True)
def send_welcome(address: str, link: str) -> None:
    """Welcome somebody."""
    shop.send(address, f"Welcome! {link}")


@shared_task(ignore_result=True)
def send_reminder(address: str) -> None:
    """Remind somebody."""
    shop.send(address, "Are you still there?")


@shared_task(soft_time_limit=300)
def write_report(count: int) -> int:
    """Write a report."""
    for number in range(count):
        shop.write_page(number)
    return count


@shared_task(ignore_result=True)
def clean_up() -> None:
    """Clean up at night."""
    shop.clean_up("03")


def celery_init_app(app: Flask) -> Celery:
    """Make Celery's app, whose tasks run with the app's context."""

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(app.name, task_cls=FlaskTask)
    celery.config_from_object(app.config["CELERY"])
    celery.set_default()
    app.extensions["celery"] = celery
    return celery


def create_app(**settings: Any) -> Flask:
    """Make the app."""
    app = Flask("shop")
    nightly = {"task": clean_up.name, "schedule": crontab(hour=3, minute=0)}
    app.config["CELERY"] = {"beat_schedule": {"clean-up": nightly}, **settings}
    celery_init_app(app)

    @app.post("/signup")
    def signup() -> str:
        address = request.form["address"]
        if "@" not in address:
            return "No address"
        send_welcome.delay(address, url_for("confirm", address=address, _external=True))
        return "Welcome"

    @app.get("/confirm/<address>")
    def confirm(address: str) -> str:
        return "Confirmed"

    return app
