"""A site whose pages show the progress of items, under a strict Content-Security-Policy."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask, Response, request

from flask_background import Background, current_item
from flask_background.dashboard import create_status

PAGE = """<!doctype html>
<html lang="en">
<title>Progress</title>
<link rel="icon" href="data:,">
<script type="module" src="/items/progress.js"></script>
<script src="/watch.js"></script>
<h1>Progress</h1>
<background-progress item="{item}" label="Import"{attributes}>
  <a href="">Reload the page</a>
</background-progress>
"""
# Notes the events on the page, for the test to read.
WATCH = """
window.ends = [];
addEventListener("background-finished", (event) => ends.push([event.target.localName, event.detail]));
"""


def create_app() -> Flask:
    """Make the site."""
    app = Flask("status_site")
    app.config.from_prefixed_env()
    background = Background(app)

    @background.task(durable=True)
    def follow(path: str) -> str:
        """Report the number that a file has, until it is 10; a file without a number is an error."""
        Path(path + ".pid").write_text(str(os.getpid()))
        while (done := int(Path(path).read_text() or "0")) < 10:
            current_item.report_progress(done, 10, f"step {done}")
            current_item.token.raise_if_cancelled()
            time.sleep(0.02)
        return "<b>done</b>"

    @app.get("/pid")
    def pid() -> dict[str, object]:
        return {"pid": os.getpid()}

    @app.get("/follow")
    def start() -> dict[str, object]:
        return {"id": follow.enqueue(request.args["path"]).id, "pid": os.getpid()}

    @app.get("/page/<item>")
    def page(item: str) -> str:
        return PAGE.format(item=item, attributes=request.args.get("attributes", ""))

    @app.get("/watch.js")
    def watch() -> Response:
        return Response(WATCH, mimetype="text/javascript")

    @app.after_request
    def forbid(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:"
        )
        return response

    app.register_blueprint(create_status(show_result=True), url_prefix="/items")
    return app
