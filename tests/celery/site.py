"""The shop as gunicorn serves it: views enqueue items, and say how they stand."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, current_app

from . import shop


def create_app() -> Flask:
    """The app, with views."""
    app = shop.create_app()

    @app.get("/pid")
    def pid() -> dict[str, Any]:
        return {"pid": os.getpid(), "instance": current_app.instance_path}

    @app.get("/hold/<name>")
    def hold(name: str) -> dict[str, Any]:
        return {"pid": os.getpid(), "id": shop.hold.enqueue(name).id}

    @app.get("/wait/<name>")
    def wait(name: str) -> dict[str, Any]:
        return {"pid": os.getpid(), "result": shop.hold.enqueue(name).result(60)}

    @app.get("/items/<item_id>")
    def show(item_id: str) -> dict[str, Any]:
        item = shop.background.get(item_id)
        if item is None:
            abort(404)
        progress = item.progress
        return {
            "pid": os.getpid(),
            "status": item.status.value,
            "progress": None if progress is None else progress.message,
            "attempt": item.attempt,
            "result": item.result(0) if item.status.is_final else None,
        }

    return app
