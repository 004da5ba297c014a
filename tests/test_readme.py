"""``README.md``: its app and its command, taken from the page and run as printed."""

from __future__ import annotations

import hashlib
import re
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .docs.pages import Program, blocks, get, save, upload
from .helpers import ROOT, until

pytestmark = pytest.mark.server

README = ROOT / "README.md"
PAGE = README.read_text()


@contextmanager
def serve_readme(folder: Path, **options: Any) -> Iterator[Program]:
    """The page's app, saved in a folder and started there by the page's command."""
    (app,) = blocks(README, "python")
    assert app.file_name == "shop.py"
    save(folder, app)
    (command,) = re.findall(r"^    (gunicorn .+)$", PAGE, flags=re.M)
    program = Program(folder, command, **options)
    try:
        yield program
        program.end()
    finally:
        program.kill()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The page's app, with this checkout."""
    with serve_readme(tmp_path) as program:
        yield program


def test_readme(program: Program) -> None:
    """An upload answers at once, every worker shows its item, and a form without a file is refused."""
    assert 'type="file"' in get(program.url)
    shown, page = upload(f"{program.url}/photos", "photo", b"one two three")
    assert re.search(rb"Your photo: (queued|running)", page)
    digest = hashlib.sha256(b"one two three").hexdigest()
    until(lambda: digest in get(shown), 60)
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        upload(f"{program.url}/photos", "photo", b"", file_name="")
    refused.value.close()


def test_readme_is_short() -> None:
    """The page can be read at one go, and names only pages that are there."""
    assert len(PAGE.splitlines()) <= 150
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
