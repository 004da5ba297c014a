"""The demo under a real gunicorn, with its files in a temporary folder, and a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .driver import Demo

ROOT = Path(__file__).parents[2]

Start = Callable[..., Demo]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, for all tests that leave it running and idle."""
    demo = launch(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Start]:
    """Starts demos that the test may stop or reload; what it leaves running is ended.

    ``after``: one that has ended, whose files the new one takes over.
    """
    started: list[Demo] = []

    def start(after: Demo | None = None, **environment: str) -> Demo:
        folder = tmp_path / str(len(started)) if after is None else after.instance.parent
        started.append(launch(folder, **environment))
        return started[-1]

    yield start
    for demo in started:
        demo.stop()


GUNICORN = ("gunicorn", "-c", "demo_app/gunicorn.conf.py", "demo_app:create_app()")


def launch(
    folder: Path, module: tuple[str, ...] = GUNICORN, kind: type[Demo] = Demo, **environment: str
) -> Demo:
    """Start gunicorn as a newcomer does, or another module, on any free port."""
    folder.mkdir(exist_ok=True)
    instance = folder / "instance"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAIL_", "DEMO_"))}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT,
            env=inherited | {"PORT": "0", "DEMO_INSTANCE": str(instance)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return kind(process, instance, log)
