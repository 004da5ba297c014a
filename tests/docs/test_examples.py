"""The Python examples of the guides, run as printed, page by page."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from flask_background import Background

from ..helpers import until
from .pages import DOCS, FILE_NAME, PAGES, Block, blocks, save

pytestmark = pytest.mark.process

#: Pages with a test of their own, which runs their programs.
PROGRAMS = {
    "start/tutorial.md": "test_tutorial.py",
    "guides/growing.md": "test_growing.py",
}
#: How a block begins that shows the code of another library, to compare with.
NOT_OURS = "# before, with "


def _is_example(block: Block) -> bool:
    return block.file_name is None and not block.text.startswith(NOT_OURS)


PAGES_HERE = [
    page
    for page in PAGES
    if str(page.relative_to(DOCS)) not in PROGRAMS and any(map(_is_example, blocks(page, "python")))
]


class PageApp(Flask):
    """The app of a page, whose examples make requests between its views."""

    def _check_setup_finished(self, f_name: str) -> None:
        pass


class Page:
    """A page and what its examples may use besides what they define."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._folder = folder
        self._contexts: list[Any] = []
        sybil = Sybil(
            parsers=[PythonCodeBlockParser(), CodeBlockParser("pycon"), SkipParser()],
            path=str(path.parent),
        )
        self._document: Document = sybil.parse(path)
        self._document.namespace.update(__name__="shop", site=self.site, until=until)

    def site(self, **settings: Any) -> tuple[Flask, Background]:
        """Make an app and its Background, and push the app's context for the rest of the page."""
        app = PageApp("shop", instance_path=str(self._folder))
        app.config.update(SECRET_KEY="of the tests", **settings)
        background = Background(app)
        self._contexts.append(app.app_context())
        self._contexts[-1].push()
        return app, background

    def run(self) -> int:
        """Run the examples in order, and return their number."""
        count = 0
        for example in self._document.examples():
            text = str(example.parsed)
            if FILE_NAME.match(text):
                continue
            if text.startswith(NOT_OURS):
                compile(text, example.path, "exec")
                continue
            example.evaluate()
            count += 1
        return count

    def end(self) -> None:
        """Pop the contexts."""
        for context in reversed(self._contexts):
            context.pop()


@pytest.fixture
def open_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Page]]:
    """Opens a page, whose files are saved in a folder, where the page's examples run."""
    opened: list[Page] = []
    before = {*sys.modules}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def open_(path: Path) -> Page:
        for block in blocks(path):
            if block.file_name:
                save(tmp_path, block)
        opened.append(Page(path, tmp_path / "instance"))
        return opened[0]

    yield open_
    for page in opened:
        page.end()
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    for name in ("shop", "shop.background"):  # apps of other tests have these loggers, too
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()


@pytest.mark.parametrize("path", PAGES_HERE, ids=lambda path: str(path.relative_to(DOCS)))
def test_examples(path: Path, open_page: Callable[[Path], Page]) -> None:
    """Each example of the page works."""
    assert open_page(path).run() >= sum(map(_is_example, blocks(path, "python")))
