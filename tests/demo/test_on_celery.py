"""The demo on Celery, by settings alone: a real Redis, a real worker, a real gunicorn, a real SMTP server."""

from __future__ import annotations

import email
import email.policy
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..redis_server import Redis
from .conftest import launch
from .driver import Demo, children, is_mail_server, is_there, item_ids, picture, until


def program(pid: int) -> str:
    """The name of the program that a process was started as: of its module, if that is Python's -m."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return ""
    return words[2] if words[1:2] == ["-m"] else Path(words[0].partition(" ")[0]).name


class OnCelery(Demo):
    """The demo with what runs beside it."""

    def programs(self, name: str) -> list[int]:
        """The processes of a program, of those that were started here: ``gunicorn``, ``celery`` ..."""
        return [pid for pid in children(self.process.pid) if name == program(pid)]

    def workers(self) -> list[int]:
        return [
            pid for parent in self.programs("gunicorn") for pid in children(parent) if not is_mail_server(pid)
        ]

    def everybody(self, pid: int | None = None) -> list[int]:
        """All processes of it."""
        pid = self.process.pid if pid is None else pid
        return [pid, *(found for child in children(pid) for found in self.everybody(child))]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for pid in reversed(self.everybody()):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def celery(self) -> list[int]:
        """The Celery workers' processes."""
        return [found for pid in self.programs("celery") for found in self.everybody(pid)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OnCelery]]:
    """Starts the demo; what a test leaves running of it is ended."""
    started: list[OnCelery] = []

    def start(**environment: str) -> OnCelery:
        demo = launch(tmp_path / "demo", ("demo_app.on_celery",), OnCelery, **environment)
        assert isinstance(demo, OnCelery)
        started.append(demo)
        until(lambda: " ready." in demo.log(), 60)
        return demo

    yield start
    for demo in started:
        demo.stop()


def test_letter_and_long_item(start: Callable[..., OnCelery]) -> None:
    """A Celery worker mails a letter over SMTP; pages show its end; Ctrl-C leaves no process behind."""
    demo = start()
    (item_id,) = item_ids(demo.post("/signup", name="Ada", address="ada@example.com"))
    item = demo.ended(item_id)
    assert (item["status"], item["attempt"]) == ("succeeded", 1)
    (path,) = demo.letters()
    letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert letter["Subject"] == "Welcome, Ada!"
    assert f"\n{demo.url}/gallery\n" in letter.get_body(("plain",)).get_content().replace("\r\n", "\n")  # type: ignore[union-attr]
    assert "Welcome, Ada!" in demo.get("/signup").text

    (long_id,) = item_ids(demo.post("/grace", seconds="60", kind="durable"))
    running = until(lambda: next((item for item in demo.items(long_id) if item["pid"]), None))
    assert running["pid"] in demo.celery()
    assert running["pid"] not in demo.workers()
    demo.post(f"/grace/{long_id}/cancel")
    assert demo.ended(long_id)["status"] == "cancelled"

    everybody = demo.everybody()
    demo.press_ctrl_c()
    assert demo.process.wait(60) == 0
    until(lambda: not [pid for pid in everybody if is_there(pid)])
    assert "Traceback" not in demo.log()
    assert demo.log().index("Shutting down: Master") < demo.log().index("Warm shutdown")


def test_pictures(start: Callable[..., OnCelery]) -> None:
    """Pictures come to the worker as uploads, are in the gallery, and nothing else is kept of them."""
    demo = start()
    ids = item_ids(demo.upload(("Ünique.png", picture("PNG", (1800, 1200))), ("none.jpg", b"MZ")))
    ends = [demo.ended(item_id)["status"] for item_id in ids]
    assert sorted(ends) in (
        ["refused", "succeeded"],
        ["refused"],
    )  # one may have ended before the page was made
    assert until(lambda: len(demo.pictures()) == 1)
    page = demo.get("/gallery").text
    assert "Ünique.png" in page
    assert "This is not a JPEG, PNG, WebP or GIF picture." in page
    until(lambda: not [path for path in (demo.instance / "uploads").rglob("*") if path.is_file()])


def test_letters_outlive_the_demo(start: Callable[..., OnCelery]) -> None:
    """A letter that waits in the demo's own Redis when all is stopped is sent by the next worker."""
    demo = start()
    for pid in demo.programs("celery"):
        os.kill(pid, signal.SIGSTOP)  # takes nothing any more
    (item_id,) = item_ids(demo.post("/signup", name="Ada", address="ada@example.com"))
    assert demo.items(item_id)[0]["status"] == "queued"
    everybody = demo.everybody()
    demo.press_ctrl_c()
    until(lambda: "Shutting down: Master" in demo.log())
    for pid in demo.programs("celery"):
        os.kill(pid, signal.SIGCONT)
    assert demo.process.wait(60) == 0
    until(lambda: not [pid for pid in everybody if is_there(pid)])
    demo = start()
    assert demo.ended(item_id)["status"] == "succeeded"


def test_redis_of_ones_own(start: Callable[..., OnCelery], redis: Redis) -> None:
    """The Redis that the environment names is used, and left running; no other one is started."""
    demo = start(BACKGROUND_CELERY=f"{redis.url}/7")
    assert not demo.programs("redis-server")
    (item_id,) = item_ids(demo.post("/signup", name="Ada", address="ada@example.com"))
    assert demo.ended(item_id)["status"] == "succeeded"
    demo.process.terminate()
    assert demo.process.wait(60) == 0
    assert redis.length("none") == 0


def test_worker_that_ends(start: Callable[..., OnCelery]) -> None:
    """When one of the programs ends by itself, so do the others, and it is said which."""
    demo = start()
    everybody = demo.everybody()
    (worker,) = demo.programs("celery")
    os.kill(worker, signal.SIGTERM)
    assert demo.process.wait(60) == 1
    until(lambda: not [pid for pid in everybody if is_there(pid)])
    assert "The Celery worker has ended" in demo.log()
