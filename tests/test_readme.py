"""``README.md``: its app and its command, taken from the page and run as printed."""

from __future__ import annotations

import hashlib
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import ROOT, until
from .readme import PAGE, serve_readme

pytestmark = pytest.mark.server


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the page's app answers."""
    with serve_readme(sys.executable, tmp_path, PYTHONPATH=str(ROOT)) as address:
        yield address


def test_readme(address: str) -> None:
    """The upload answers at once, both workers know the item, and the page shows what came of it."""
    with urllib.request.urlopen(address, timeout=30) as form:
        assert b'type="file"' in form.read()
    disposition = b'Content-Disposition: form-data; name="photo"; filename="a.txt"'
    body = b"--x\r\n" + disposition + b"\r\n\r\none two three\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{address}/photos", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # follows the redirect
        shown, page = response.url, response.read()
    assert re.search(rb"Item \w{24} is (queued|running)", page)

    def result() -> bool:
        with urllib.request.urlopen(shown, timeout=30) as response:
            return bool(response.read().decode() == hashlib.sha256(b"one two three").hexdigest())

    until(result, 60)


def test_readme_is_short() -> None:
    """The page can be read at one go, and names only pages that are there."""
    assert len(PAGE.splitlines()) <= 150
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
