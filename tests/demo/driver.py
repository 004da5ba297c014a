"""The demo as the tests drive it: its process, its pages over HTTP, and pictures to upload."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import struct
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from email.message import Message
from html import unescape
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode

from PIL import Image, ImageDraw
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

T = TypeVar("T")

Upload = tuple[str, bytes]
"""A file's name and content."""


def until(look: Callable[[], T | Literal[False] | None], seconds: float = 30.0) -> T:
    """Call a function until it returns a true value, and return that."""
    end = time.monotonic() + seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < end, f"nothing was seen in {seconds} s"
        time.sleep(0.05)


class Answer(NamedTuple):
    """A response that was read."""

    status: int
    headers: Message
    body: bytes
    url: str

    @property
    def page(self) -> str:
        """The text of the page, as sent."""
        return self.body.decode()

    @property
    def text(self) -> str:
        """The text of a page as a visitor reads it: without tags, with entities as characters."""
        page = re.sub(r"<details class=\"code\".*?</details>", "", self.page, flags=re.S)
        return unescape(re.sub(r"<[^>]+>", " ", page))


class Demo:
    """A running demo."""

    def __init__(self, process: subprocess.Popen[bytes], instance: Path, log: Path) -> None:
        self.process = process
        self.instance = instance
        self._log = log
        self.url = until(self._address)
        until(self.answers)
        until(lambda: len(self.workers()) == 2)

    def log(self) -> str:
        """The demo's output on the terminal."""
        return self._log.read_text()

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log()
        said = re.search(r"(http://127\.0\.0\.1:\d+)/", self.log())
        return said and said[1]

    def request(
        self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and follow redirects."""
        request = urllib.request.Request(self.url + path, data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.headers, response.read(), response.url)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read(), error.url)

    def get(self, path: str) -> Answer:
        """Get a page."""
        return self.request(path)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        """Send a form."""
        return self.request(path, urlencode(fields).encode(), headers)

    def upload(self, *uploads: Upload, headers: Mapping[str, str] | None = None) -> Answer:
        """Send pictures."""
        data, kind = multipart(uploads)
        return self.request("/gallery", data, {"Content-Type": kind} | dict(headers or {}))

    def items(self, *ids: str) -> list[dict[str, Any]]:
        """The items' rows on the page of items."""
        answer = self.get("/items?" + urlencode([("id", item_id) for item_id in ids]))
        items: list[dict[str, Any]] = json.loads(answer.body)["items"]
        return items

    def ended(self, item_id: str) -> dict[str, Any]:
        """The row of an item, once the item has ended."""
        return until(lambda: next((item for item in self.items(item_id) if item["final"]), None))

    def pictures(self) -> list[Path]:
        """The folders of the pictures in the gallery."""
        return sorted(path.parent for path in self.instance.glob("pictures/*/about.json"))

    def letters(self) -> list[Path]:
        """The letters that were received, oldest first."""
        return sorted(self.instance.glob("outbox/*.eml"))

    def answers(self) -> bool:
        """Whether a worker answers."""
        try:
            return self.get("/items").status == 200
        except (urllib.error.URLError, ConnectionError, http.client.HTTPException):
            return False

    def workers(self) -> list[int]:
        """The workers of the master."""
        return [pid for pid in children(self.process.pid) if not is_mail_server(pid)]

    def mail_servers(self) -> list[int]:
        """The mail servers that the master, or a worker, has started."""
        family = [pid for parent in (self.process.pid, *self.workers()) for pid in children(parent)]
        return [pid for pid in family if is_mail_server(pid)]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for the end of the server, and return its exit code; a failure shows the terminal."""
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the demo has not ended after a minute:\n{self.log()}") from None

    def press_ctrl_c(self) -> None:
        """Do what a terminal does: all of its foreground processes get the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def stop(self) -> None:
        """End it, politely first."""
        if self.process.poll() is None:
            self.signal(signal.SIGQUIT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a power cut does: a worker that saw its master die first would begin to stop."""
        workers = self.workers()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (*workers, self.process.pid):
                os.kill(pid, number)
        self.process.wait(20)
        until(lambda: not any(is_there(pid) for pid in workers))


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def is_mail_server(pid: int) -> bool:
    """Whether a process is the demo's own mail server."""
    try:
        return b"mailserver.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_there(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def item_ids(answer: Answer) -> list[str]:
    """The items that a page shows."""
    return re.findall(r'data-item="([0-9a-f]{24})"', answer.page)


def multipart(uploads: Iterable[Upload]) -> tuple[bytes, str]:
    """A form with pictures: its body and its content type."""
    files = MultiDict(
        ("pictures", FileStorage(io.BytesIO(content), filename=name)) for name, content in uploads
    )
    boundary, body = encode_multipart(files)
    return body, f"multipart/form-data; boundary={boundary}"


def picture(
    kind: str = "JPEG", size: tuple[int, int] = (1000, 600), color: str = "#2a9d8f", **options: Any
) -> bytes:
    """A picture: a sun over a hill."""
    image = Image.new("RGB", size, color)
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.ellipse((width * 0.6, height * 0.12, width * 0.6 + height * 0.3, height * 0.42), "#ffe8a3")
    draw.ellipse((-width * 0.3, height * 0.6, width * 0.9, height * 1.9), "#264653")
    draw.ellipse((width * 0.4, height * 0.7, width * 1.5, height * 2.0), "#1d3540")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG that would be a large picture: all of its pixels are black, and compress well."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    deflate = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    rows = b"".join(deflate.compress(row) for _ in range(min(height, 2000))) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
