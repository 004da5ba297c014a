"""``docs/start/tutorial.md``: its files and commands, taken from the page and run as printed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from ..helpers import until
from .pages import DOCS, Program, blocks, get, save, upload

pytestmark = pytest.mark.server

PAGE = DOCS / "start" / "tutorial.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the app, empty as on the page."""
    folder = tmp_path / "photos-app"
    folder.mkdir()
    return folder


def saved(folder: Path, *, until_line: int) -> None:
    """Save the files of the page that come before a line."""
    for block in blocks(PAGE):
        if block.file_name and block.line < until_line:
            save(folder, block)


def line_of(command: str) -> int:
    """The line of a command on the page, which has it once."""
    (found,) = (block.line for block in blocks(PAGE, "sh") if block.text == f"{command}\n")
    return found


def picture() -> bytes:
    """A picture."""
    content = io.BytesIO()
    Image.new("RGB", (1000, 500), "teal").save(content, "PNG")
    return content.getvalue()


def test_first_run(folder: Path) -> None:
    """The first version of the app runs under ``flask run``, and makes a thumbnail."""
    command = "flask --app photos run"
    saved(folder, until_line=line_of(command))
    program = Program(folder, f"{command} --port 0")
    try:
        url = program.wait_for(r"Running on (http://\S+)")[1]
        upload(f"{url}/photos", "photo", picture(), "sea.png")
        (shown,) = until(lambda: re.findall(r'<img src="(.+?)"', get(url)))
        assert shown.endswith(".jpg")
        assert (folder / "instance" / "background-photos").is_dir()
    finally:
        program.kill()


@pytest.mark.parametrize("last", [False, True], ids=["first version", "last version"])
def test_tests(folder: Path, last: bool) -> None:
    """The tests of the page pass, with the app as it is there, and as it is at the end."""
    command = "python -m pytest"
    saved(folder, until_line=10_000 if last else line_of(command))
    assert "3 passed" in Program(folder, f"{command} -p no:cacheprovider").succeeds()


def test_deployed(folder: Path) -> None:
    """The last version runs under gunicorn, and makes a thumbnail although all of gunicorn was killed."""
    command = 'gunicorn "photos:create_app()"'
    saved(folder, until_line=line_of(command))
    config = folder / "gunicorn.conf.py"
    config.write_text(config.read_text().replace("127.0.0.1:8000", "127.0.0.1:0"))
    program = Program(folder, command)
    try:
        _, page = upload(f"{program.url}/photos", "photo", picture(), "sea.png")
        assert b"Photos" in page
    finally:
        program.kill()

    program = Program(folder, command)
    try:
        until(lambda: "<img" in get(program.url), 60)
        program.end()
    finally:
        program.kill()
