"""The gallery: pictures are shrunk after the answer, and the page shows how far they are."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from flask import (
    Blueprint,
    current_app,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage

from flask_background import Status, current_item

from . import pictures
from .extensions import background
from .items import Shown, describe, end_if_asked

bp = Blueprint("gallery", __name__)

EDGES = (1600, 800, 400)  # the longest edge of each copy, in pixels
SECONDS_NEEDED = 5  # to make all of them, on a slow machine
SHOWN = 60
FAILURES_SHOWN_SECONDS = 600

NAMES_KEPT = 1000

# What visitors call the files of the latest items, by the items' ids.
names: dict[str, str] = {}


class Picture(NamedTuple):
    """A picture in the gallery."""

    id: str
    name: str


@background.task
def make_thumbnails(upload: FileStorage, name: str) -> None:
    """Keep small copies of an uploaded picture, and nothing else of it."""
    steps = len(EDGES) + 1
    current_item.report_progress(0, steps, "Reading")
    picture = pictures.read(upload.stream, EDGES[0])
    with tempfile.TemporaryDirectory(dir=folder()) as temporary:
        draft = Path(temporary, "draft")
        draft.mkdir()
        for done, edge in enumerate(EDGES, start=1):
            end_if_asked(SECONDS_NEEDED)
            current_item.report_progress(done, steps, f"Making the copy of {edge} pixels")
            picture.thumbnail((edge, edge))
            picture.save(draft / f"{edge}.webp", quality=82)
        (draft / "about.json").write_text(json.dumps({"name": name}))
        draft.rename(folder() / current_item.id)  # all of it appears at once, or nothing
    current_item.report_progress(steps, steps, "Done")


@bp.get("/")
def index() -> str:
    """Show the gallery."""
    return page()


@bp.post("/")
def add() -> ResponseReturnValue:
    """Take pictures, and answer before any of them is looked at."""
    uploads = [upload for upload in request.files.getlist("pictures") if upload.filename]
    if not uploads:
        return page("Please choose a picture first."), 400
    for upload in uploads:
        name = caption(upload.filename)
        item = make_thumbnails.enqueue(upload, name)
        remember(item.id, name)
    return redirect(url_for(".index"), 303)


@bp.get("/pictures/<picture>/<int:edge>.webp")
def copy(picture: str, edge: int) -> ResponseReturnValue:
    """Send a copy of a picture. It never changes, so browsers may keep it."""
    return send_from_directory(folder(), f"{picture}/{edge}.webp", max_age=31_536_000)


def page(error: str | None = None) -> str:
    """Show the form, the items that are not done or failed lately, and the pictures."""
    return render_template(
        "gallery.html",
        error=error,
        items=open_items(),
        pictures=newest(),
        functions=[add, make_thumbnails],
    )


def open_items() -> list[Shown]:
    """The items that have no picture to show: those in flight, and those that failed lately."""
    items = [
        describe(item) | {"name": names.get(item.id, "A picture")}
        for item in background.items()
        if item.task_name == make_thumbnails.name and item.status is not Status.SUCCEEDED
    ]
    lately = time.time() - FAILURES_SHOWN_SECONDS
    in_flight = [item for item in items if not item["final"]]
    failed = [item for item in items if item["error"] and item["enqueued"] > lately]
    return [*in_flight, *reversed(failed)][:SHOWN]


def newest() -> list[Picture]:
    """The newest pictures in the gallery."""
    abouts = sorted(folder().glob("*/about.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [Picture(p.parent.name, json.loads(p.read_text())["name"]) for p in abouts[:SHOWN]]


def folder() -> Path:
    """Where the pictures are kept."""
    path = Path(current_app.instance_path, "pictures")
    path.mkdir(exist_ok=True)
    return path


def remember(item_id: str, name: str) -> None:
    """Keep the name of an item's file for the page; the oldest is forgotten."""
    names[item_id] = name
    if len(names) > NAMES_KEPT:
        names.pop(next(iter(names)), None)


def caption(filename: str | None) -> str:
    """The last part of a file's name, whatever the visitor's machine separates folders with."""
    return (filename or "").replace("\\", "/").rpartition("/")[2][:80] or "a picture"
