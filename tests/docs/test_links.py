"""The links of README, CHANGES and ``docs/``, and the shape of the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..helpers import ROOT
from .pages import DOCS, FILE_NAME, PAGES, blocks

ALL = [ROOT / "README.md", ROOT / "CHANGES.md", *PAGES]
#: Columns of code that fit the box of an example on a page of 1280 pixels.
COLUMNS = 98


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Each link leads to a file that is there, and to a heading in it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            assert link.startswith("http://127.0.0.1")  # nothing else can be checked here
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_each_page_is_in_one_list() -> None:
    """Each page but the first is in the table of contents of one page."""
    listed = []
    for page in PAGES:
        for block in blocks(page, "{toctree}"):
            entries = [line for line in block.text.splitlines() if line and not line.startswith(":")]
            listed += [(page.parent / f"{entry}.md").resolve() for entry in entries]
    assert sorted(listed) == sorted(set(listed))
    assert {*PAGES} - {*listed} == {DOCS / "index.md"}


def test_code_fits() -> None:
    """No line of an example runs out of its box."""
    wide = [
        f"{page.relative_to(DOCS)}:{block.line + number}"
        for page in PAGES
        for block in blocks(page)
        for number, line in enumerate(block.text.splitlines(), 1)
        if len(line) > COLUMNS and not block.language.startswith("{")
    ]
    assert wide == []


def test_pages_are_short() -> None:
    """Each guide has one job, and can be read at one go."""
    for page in PAGES:
        if page.parent.name in ("guides", "deploy", "coming-from", "internals"):
            assert len(page.read_text().splitlines()) <= 200, page


def test_files_name_themselves() -> None:
    """A block of configuration begins with the name of its file, or has settings for the environment."""
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("yaml", "docker", "nginx"):
                assert FILE_NAME.match(block.text), f"{page}:{block.line}"
