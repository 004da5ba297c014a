"""An app with a journal, and processes of that app."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..helpers import Script, Site

APP = """
    import os, sys, time
    from pathlib import Path
    from flask import Flask

    shift = {shift!r}
    real_time = time.time
    time.time = lambda: real_time() + shift[0]  # before anything has taken it by name

    from flask_background import Background, Status, current_item
    from flask_background.app_state import state_of

    folder = Path({folder!r})
    app = Flask("shop")
    app.config["BACKGROUND_JOURNAL"] = folder / "journal"
    app.config["BACKGROUND_WORKERS"] = 2
    app.config.update({settings!r})
    background = Background(app)
    app.app_context().push()


    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())


    def tell(*words):
        with open(folder / "runs", "a") as runs:
            runs.write(" ".join(map(str, (*words, os.getpid(), real_time()))) + "\\n")


    def await_file(name):
        while not (folder / name).exists():
            time.sleep(0.002)


    @background.task(durable=True, name="work")
    def work(name):
        tell("begin", name)
        if name.startswith("hold"):
            await_file("go")
        tell("end", name)
        return name


    def serve():
        state_of(app).look_for_work()
        say("serves")
        await_file("stop")
        background.stop(5)
        say("stopped")
"""


class Shop:
    """A folder with a journal, and processes of the app in it."""

    def __init__(self, folder: Path, script: Callable[..., Script]) -> None:
        self.folder = folder
        self._script = script

    def start(self, *then: str, shift: float = 0.0, within: Sequence[str] = (), **settings: Any) -> Script:
        """Start a process that does this, its clock being set so, within another command."""
        app = APP.format(folder=str(self.folder), shift=[shift], settings=settings)
        return self._script(app, *then, within=within)

    def touch(self, name: str) -> None:
        """Give a sign."""
        (self.folder / name).touch()

    def runs(self, what: str = "begin", name: str | None = None) -> list[tuple[str, int, float]]:
        """The runs that have begun, or ended: name, process and time."""
        path = self.folder / "runs"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        found = [(line[1], int(line[2]), float(line[3])) for line in lines if line[0] == what]
        return [run for run in found if name in (None, run[0])]

    def rows(self, sql: str = "select * from item order by number") -> list[dict[str, Any]]:
        """The journal's row, read as another program would."""
        connection = sqlite3.connect(f"file:{self.folder}/journal/journal.sqlite3?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql)]
        finally:
            connection.close()

    def change(self, sql: str, *values: Any) -> None:
        """Change the journal behind everybody's back, while nobody is up."""
        connection = sqlite3.connect(self.folder / "journal" / "journal.sqlite3")
        with connection:
            connection.execute(sql, values)
        connection.close()


def work(name: str) -> None:
    """Stands for the function of the other processes."""


def enqueue(site: Site, name: str, **options: Any) -> Any:
    """Enqueue an item here, which another process runs."""
    return site.background.task(durable=True, name="work")(work).using(**options).enqueue(name)
