"""The commands of the pages, run as printed beside the files of their page."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..helpers import ROOT, until
from .pages import DOCS, PAGES, Program, blocks, save
from .test_examples import PROGRAMS

if TYPE_CHECKING:
    from ..redis_server import Redis

pytestmark = pytest.mark.server

#: Commands that are tested elsewhere, or that only prepare a machine.
ELSEWHERE = {
    'pip install ".[gunicorn]"': "make lint installs the package with extras in the same way",
    "gunicorn --workers 2 --threads 4 --graceful-timeout 91 shop:app": "tests/test_readme.py",
    "flask --app shop background metrics --port 9464": "tests/contrib/test_gunicorn.py",
}
ENQUEUE = """
from shop import create_app, tidy
app = create_app()
with app.app_context():
    print(tidy.enqueue(7).result(60))
"""


def commands(page: str) -> list[str]:
    """The lines of a page's commands."""
    return [line for block in blocks(DOCS / page, "sh") for line in block.text.splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts commands in a folder; those that still run when the test is over are killed."""
    started: list[Program] = []

    def start(command: str, **settings: str) -> Program:
        started.append(Program(tmp_path, command, **settings))
        return started[-1]

    yield start
    for program in started:
        program.kill()


def save_files(page: str, folder: Path, old: str = "", new: str = "") -> None:
    """Save the files of a page, with one text replaced by another."""
    for block in blocks(DOCS / page):
        if block.file_name:
            save(folder, block._replace(text=block.text.replace(old, new) if old else block.text))


def test_worker(start: Callable[..., Program], tmp_path: Path) -> None:
    """``guides/worker.md``: workers run what a command has enqueued."""
    save_files("guides/worker.md", tmp_path)
    worker, run, list_, stats = commands("guides/worker.md")
    workers = start(worker)
    workers.wait_for("started: runs items of")
    item = start(run).succeeds().split()[0]
    look = f"flask --app shop background show {item}"
    until(lambda: "succeeded" in start(look).succeeds(), 60)
    assert item in start(list_).succeeds()
    assert re.search(r"succeeded +1\n", start(stats).succeeds())
    workers.end()


SHOP = """
from flask import Flask
from flask_background import Background
app = Flask("shop")
app.config["BACKGROUND_RUN_IN_WEB"] = False
background = Background(app)
@background.task(durable=True, name="mail.send")
def send():
    raise ConnectionError("the mail server is down")
"""


def test_repair(start: Callable[..., Program], tmp_path: Path) -> None:
    """``guides/repair.md``: a task waits while it is paused; what has failed runs again."""
    (tmp_path / "shop.py").write_text(SHOP)
    pause, resume, retry, purge, doctor = commands("guides/repair.md")
    work = "flask --app shop background worker --burst"
    start(pause).succeeds()
    start("flask --app shop background run mail.send").succeeds()
    assert "mail server is down" not in start(work).succeeds()
    assert "paused" in start(doctor).succeeds()
    start(resume).succeeds()
    assert "mail server is down" in start(work).succeeds()
    assert start(retry).succeeds().endswith("1 item retried\n")
    nothing = start(purge)
    assert nothing.process.wait(60) == 1
    assert nothing.log == "0 items purged\n"


def test_plain_process(start: Callable[..., Program], tmp_path: Path) -> None:
    """``guides/hosts.md``: a script waits for its item."""
    save_files("guides/hosts.md", tmp_path)
    (command,) = commands("guides/hosts.md")
    assert "5" in start(command).succeeds().splitlines()  # beside lines about the stop, if it had to wait


@pytest.mark.parametrize("page", ["start/installation.md", "deploy/index.md"])
def test_doctor(start: Callable[..., Program], tmp_path: Path, page: str) -> None:
    """``flask background doctor`` finds nothing wrong with the README's app."""
    (app,) = blocks(ROOT / "README.md", "python")
    save(tmp_path, app)
    report = start(commands(page)[-1]).succeeds()
    assert "graceful_timeout = 91" in report


def test_celery(start: Callable[..., Program], tmp_path: Path, redis: Redis) -> None:
    """``guides/celery.md``: both commands start a worker that runs items."""
    redis.forget_all()
    save_files("guides/celery.md", tmp_path, "redis://redis.example", redis.url)
    (tmp_path / "enqueue.py").write_text(ENQUEUE)
    for command in commands("guides/celery.md"):
        worker = start(command)
        assert start("python enqueue.py").succeeds() == "tidied 7 days\n"
        worker.end()


def test_every_command_is_run() -> None:
    """No page has a command that no test runs."""
    run_here = (
        "guides/worker.md",
        "guides/repair.md",
        "guides/hosts.md",
        "guides/celery.md",
        "deploy/index.md",
        *PROGRAMS,
    )
    doctor = commands("deploy/index.md")[0]
    left = {
        command
        for path in PAGES
        if (page := str(path.relative_to(DOCS))) not in run_here
        for command in commands(page)
    }
    assert left - ELSEWHERE.keys() == {doctor}


def test_make_targets() -> None:
    """Each ``make`` command that a page names is one."""
    text = "".join(path.read_text() for path in [*PAGES, ROOT / "README.md"])
    targets = set(re.findall(r"`make (\w+)", text))
    assert targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
