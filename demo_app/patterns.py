"""Retries with a growing pause, a task on a schedule, and an item that waits for a commit."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

from flask import Blueprint, Flask, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import Table
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from flask_background import current_item

from . import config, files, recent
from .extensions import background, db

bp = Blueprint("patterns", __name__, url_prefix="/patterns")

ORDERS_SHOWN = 5


class Order(db.Model):  # type: ignore[name-defined, misc]
    """Something that a visitor has ordered."""

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]
    ordered_at: Mapped[datetime]
    confirmed_by: Mapped[str | None]


def make_table(app: Flask) -> None:
    """Make the table of orders, unless another worker has just made it."""
    assert isinstance(Order.__table__, Table)
    with app.app_context():
        db.session.execute(CreateTable(Order.__table__, if_not_exists=True))
        db.session.commit()


@background.task(
    durable=True,
    max_attempts=4,
    backoff=lambda attempt, error: 2**attempt,  # seconds
    retry_on=(OSError,),
)
def ask_for_rates() -> None:
    """Ask a service that is down at first, and answers the third attempt."""
    if current_item.attempt < 3:
        raise ConnectionError("the service does not answer")


@background.periodic(seconds=config.DEMO_TICK_EVERY)
@background.task(durable=True)
def tick() -> None:
    """Run on a schedule: once for all workers, whichever of them is up."""
    latest = {"at": time.time(), "pid": os.getpid()}
    files.write_json(files.folder("recent") / "tick", latest)


@background.task(durable=True)
def confirm_order(order_id: int) -> None:
    """Confirm an order, whose row is there: the item began after the commit."""
    order = db.session.get_one(Order, order_id)
    order.confirmed_by = f"item {current_item.id[:6]} in worker {os.getpid()}"
    db.session.commit()


@bp.get("")
def index() -> str:
    """Show all three."""
    newest = db.select(Order).order_by(Order.id.desc()).limit(ORDERS_SHOWN)
    last = files.read_json(files.folder("recent") / "tick")
    return render_template(
        "patterns.html",
        items=recent.items("rates"),
        last=last and last | {"ago": max(0.0, time.time() - last["at"])},
        every=current_app.config["DEMO_TICK_EVERY"],
        orders=db.session.scalars(newest).all(),
        confirmations=recent.items("order"),
        rolled_back=request.args.get("end") == "rollback",
        functions=[ask_for_rates, tick, place_order, confirm_order],
    )


@bp.post("/rates")
def retry() -> ResponseReturnValue:
    """Start an item that fails at first."""
    recent.add("rates", ask_for_rates.enqueue(), "Rates")
    return redirect(url_for(".index"), 303)


@bp.post("/orders")
def place_order() -> ResponseReturnValue:
    """Take an order. The commit enqueues its item, and a roll-back drops it."""
    order = Order(what="A sunny hill, 40 x 60 cm", ordered_at=datetime.now(UTC))
    db.session.add(order)
    db.session.flush()  # gives the order its number
    item = confirm_order.using(when="commit").enqueue(order.id)
    if request.form.get("end") == "rollback":
        db.session.rollback()
        return redirect(url_for(".index", end="rollback"), 303)
    db.session.commit()
    recent.add("order", item, f"Order {order.id}")
    return redirect(url_for(".index"), 303)
