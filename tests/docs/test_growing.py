"""``docs/guides/growing.md``: its app, settings and commands, taken from the page and run step by step."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..helpers import until
from .pages import DOCS, Program, get, upload

if TYPE_CHECKING:
    from ..redis_server import Redis

PAGE = (DOCS / "guides" / "growing.md").read_text()


def section(number: int) -> str:
    """A step of the page; the app comes before the first one."""
    return re.split(r"^## ", PAGE, flags=re.M)[number]


def blocks(number: int, language: str) -> list[str]:
    """The step's code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(number), flags=re.M | re.S)


class Step:
    """The programs of one step, in a folder with the page's files."""

    def __init__(self, folder: Path, number: int, settings: dict[str, str]) -> None:
        (commands,) = blocks(number, "sh")
        self._programs = [Program(folder, command, **settings) for command in commands.splitlines()]
        self.url = self._programs[0].url

    @property
    def pids(self) -> list[int]:
        """The first process of each program, in the page's order."""
        return [program.process.pid for program in self._programs]

    def add(self) -> str:
        """Upload a text; returns the item's id."""
        _, answer = upload(f"{self.url}/texts", "text", b"one two three")
        return str(json.loads(answer)["id"])

    def result(self, item_id: str) -> dict[str, Any]:
        """The result of an item, which this waits for."""

        def look() -> dict[str, Any] | None:
            result: dict[str, Any] | None = json.loads(get(f"{self.url}/texts/{item_id}"))["result"]
            return result

        return until(look, 60)

    def kill(self, index: int) -> None:
        """Kill one of the programs, with all that it has started."""
        self._programs[index].kill()

    def end(self) -> None:
        """End the programs that run, as a process manager does."""
        for program in self._programs:
            program.end()


def belongs_to(pid: int, program: int) -> bool:
    """Return whether a process is a program, or was started by it."""
    return os.getpgid(pid) == program


@pytest.fixture
def steps(tmp_path: Path, redis: Redis) -> Iterator[Any]:
    """Takes one step after the other, in one folder; settings add up."""
    redis.forget_all()  # what other tests have left is not the shop's
    (app,) = blocks(0, "python")
    (tmp_path / "shop.py").write_text(app)
    (tmp_path / "uploads").mkdir()
    settings: dict[str, str] = {}
    taken: list[Step] = []

    def take(number: int) -> Step:
        for line in "".join(blocks(number, "ini")).splitlines():
            name, value = line.split("=", 1)
            settings[name] = value.replace("redis://redis.example", redis.url).replace("/srv", str(tmp_path))
        taken.append(Step(tmp_path, number, settings))
        return taken[-1]

    yield take
    for step in taken:
        step.end()


@pytest.mark.timeout(300)
def test_each_step(steps: Any, tmp_path: Path) -> None:
    """The same app in one process, with a journal, with a worker of its own, and on Celery."""
    step = steps(1)
    result = step.result(step.add())
    assert result["words"] == 3
    assert belongs_to(result["pid"], step.pids[0])
    step.end()

    shop = tmp_path / "shop.py"
    (durable,) = blocks(2, "python")
    before = shop.read_text()
    shop.write_text(before.replace("@background.task\n", durable))
    assert shop.read_text() != before
    step = steps(2)
    first = step.add()
    assert step.result(first)["words"] == 3
    step.kill(0)

    step = steps(3)
    _, worker = step.pids
    assert step.result(first)["words"] == 3  # the journal knows it
    assert belongs_to(step.result(step.add())["pid"], worker)
    step.kill(1)
    waiting = step.add()  # for another worker
    step.end()
    step = steps(3)
    assert belongs_to(step.result(waiting)["pid"], step.pids[1])
    step.end()

    (celery,) = blocks(4, "python")
    (tmp_path / "shop_celery.py").write_text(celery)
    step = steps(4)
    assert step.result(step.add())["words"] == 3
    assert belongs_to(step.result(step.add())["pid"], step.pids[1])
    until(lambda: not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()])


def test_files_say_their_names() -> None:
    """Each file of the page begins with its name, and the numbers of the steps are in order."""
    assert blocks(0, "python")[0].startswith("# shop.py\n")
    assert blocks(4, "python")[0].startswith("# shop_celery.py\n")
    assert [section(number)[:2] for number in range(1, 5)] == ["1.", "2.", "3.", "4."]
