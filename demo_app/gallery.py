"""The gallery: pictures are shrunk after the answer, and the page shows how far they are."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, redirect, render_template, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage

from flask_background import current_item

from . import files, pictures, tidy
from .extensions import background
from .items import Shown, end_if_asked
from .status import look_up

bp = Blueprint("gallery", __name__, url_prefix="/gallery")

EDGES = (1600, 800, 400)  # the longest edge of each copy, in pixels
SECONDS_NEEDED = 5  # to make all of them, on a slow machine
SHOWN = 60
LOOKED_AT = 200  # items that may have no picture yet
FAILURES_SHOWN_SECONDS = 600


class Picture(NamedTuple):
    """A picture in the gallery."""

    id: str
    name: str


@background.task(durable=True, executor="pictures", timeout=60)
def make_thumbnails(upload: FileStorage, name: str) -> str | None:
    """Keep small copies of an upload and nothing else of it.

    Returns why that cannot be; None once they are kept.
    """
    target = files.folder("pictures") / current_item.id
    if target.exists():
        return None  # an earlier run had made it when its worker was killed
    steps = len(EDGES) + 1
    current_item.report_progress(0, steps, "Reading")
    try:
        picture = pictures.read(upload.stream, EDGES[0])
    except pictures.PictureError as error:
        return str(error)  # visitors do that, so it is nothing for the log
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        draft = Path(temporary, "draft")
        draft.mkdir()
        for done, edge in enumerate(EDGES, start=1):
            end_if_asked(SECONDS_NEEDED)
            doing = f"Making the copy of {edge} pixels"
            current_item.report_progress(done, steps, doing)
            picture.thumbnail((edge, edge))
            picture.save(draft / f"{edge}.webp", quality=82)
        files.write_json(draft / "about.json", {"name": name})
        draft.rename(target)  # all of it appears at once, or nothing
    current_item.report_progress(steps, steps, "Done")
    return None


@bp.get("")
def index() -> str:
    """Show the gallery."""
    return page()


@bp.post("")
def add() -> ResponseReturnValue:
    """Take pictures, and answer before any of them is looked at."""
    sent = request.files.getlist("pictures")
    uploads = [upload for upload in sent if upload.filename]
    if not uploads:
        return page("Please choose a picture first."), 400
    for upload in uploads:
        name = caption(upload.filename)
        item = make_thumbnails.enqueue(upload, name)
        # Any worker may show the page, with the visitor's name for the picture.
        files.write_json(files.folder("names") / f"{item.id}.json", name)
    return redirect(url_for(".index"), 303)


@bp.get("/pictures/<picture>/<int:edge>.webp")
def copy(picture: str, edge: int) -> ResponseReturnValue:
    """Send a copy of a picture. It never changes, so browsers may keep it."""
    return send_from_directory(files.folder("pictures"), f"{picture}/{edge}.webp", max_age=31_536_000)


def page(error: str | None = None) -> str:
    """Show the form, the items that are not done or failed lately, and the pictures."""
    return render_template(
        "gallery.html",
        error=error,
        items=open_items(),
        pictures=newest(),
        functions=[add, make_thumbnails, tidy.prune],
    )


def open_items() -> list[Shown]:
    """The items that have no picture to show: those in flight, and those that came to nothing lately."""
    in_flight, failed = [], []
    lately = time.time() - FAILURES_SHOWN_SECONDS
    for path in files.newest_first(files.folder("names").glob("*.json"))[:LOOKED_AT]:
        item = look_up(path.stem)
        item["name"] = files.read_json(path) or "A picture"
        if not item["final"]:
            in_flight.append(item)
        elif item["error"] and item["enqueued"] > lately:
            failed.append(item)
        else:
            files.remove(path)
    return [*reversed(in_flight), *failed][:SHOWN]


def newest() -> list[Picture]:
    """The newest pictures in the gallery."""
    abouts = files.newest_first(files.folder("pictures").glob("*/about.json"))[:SHOWN]
    return [Picture(path.parent.name, about["name"]) for path in abouts if (about := files.read_json(path))]


def caption(filename: str | None) -> str:
    """The last part of a file's name, whatever the visitor's machine separates folders with."""
    return (filename or "").replace("\\", "/").rpartition("/")[2][:80] or "a picture"
