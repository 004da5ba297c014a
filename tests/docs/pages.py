"""The pages, their blocks of code, and their commands as programs in a folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

from ..helpers import ROOT, until

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
#: A first line that names the file that a block is to be saved as.
FILE_NAME = re.compile(r"(?:#|//|<!--|;) (?P<name>[\w./-]+\.\w+|Dockerfile|Procfile)(?: -->)?\n")
# ``flask``, also where the package is not installed, and its command so not found.
FLASK = """
from flask.cli import cli
from flask_background.cli.commands import background
cli.add_command(background)
cli()
"""
# What a program is for Python.
PROGRAMS = {
    "flask": ["-c", FLASK],
    "gunicorn": ["-m", "gunicorn", "--bind", "127.0.0.1:0"],
    "celery": ["-m", "celery"],
    "python": [],
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The file that the block is, or None."""
        found = FILE_NAME.match(self.text)
        return found and found["name"]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, or those in a language, in order."""
    text = page.read_text()
    found = re.finditer(r"^```([\w{}-]*)[^\n]*\n(.*?)^```", text, flags=re.M | re.S)
    made = [Block(page, text.count("\n", 0, one.start()) + 1, one[1], one[2]) for one in found]
    return [block for block in made if language in (None, block.language)]


def save(folder: Path, block: Block) -> None:
    """Save a block as the file that its first line names."""
    assert block.file_name
    path = folder / block.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


class Program:
    """A command of a page, running in a folder with the page's files."""

    def __init__(
        self, folder: Path, command: str, python: Path | str = sys.executable, **settings: str
    ) -> None:
        program, *options = shlex.split(command)
        words = [python, *PROGRAMS[program]] if program in PROGRAMS else [program]
        self._log = folder / f"{program}-{os.urandom(3).hex()}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*words, *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """The program's output until now."""
        return self._log.read_text()

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait until the log has a line of this pattern."""

        def look() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log
            return re.search(pattern, self.log)

        return until(look, seconds)

    @property
    def url(self) -> str:
        """The address where gunicorn answers."""
        return self.wait_for(r"Listening at: (http://\S+)")[1]

    def succeeds(self, seconds: float = 60) -> str:
        """Wait until the program has ended well, and return what it has written."""
        assert self.process.wait(seconds) == 0, self.log
        return self.log

    def kill(self) -> None:
        """Kill the program, with all that it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)

    def end(self, seconds: float = 30) -> None:
        """End the program, as a process manager does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                assert self.process.wait(seconds) == 0, self.log
            finally:
                self.kill()
        assert "Traceback" not in self.log, self.log


def upload(url: str, name: str, content: bytes, file_name: str = "a.txt") -> tuple[str, bytes]:
    """Upload a file by a form; return the address that was redirected to, and what it answers."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"'.encode()
    body = b"--x\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    request = urllib.request.Request(url, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.url, response.read()


def get(url: str) -> str:
    """Return the text that an address answers."""
    with urllib.request.urlopen(url, timeout=30) as response:
        answer: bytes = response.read()
        return answer.decode()
