"""The end of an executor of child processes, orderly or not; and items there that enqueue."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import current_app

from flask_background import Status, Task, WorkItem, current_item
from flask_background.app_state import state_of
from flask_background.errors import EnqueuedInChildError, ItemInterruptedError, WaitError

from ...children import SharedList, ship
from ...helpers import BOUND, Script, our_threads, slack, until
from ...integration.servers import alive
from .conftest import CPU, Shop, children

ENDING = """
import os
from pathlib import Path
from flask_background import signals
from tests.children import create_app

@signals.child_ending.connect
def note(app, **extra):
    Path(__file__).with_name(f"ended-{os.getpid()}").touch()
"""


def test_child_that_ends_says_so(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """A child that is replaced sends a signal before it ends."""
    (tmp_path / "ending.py").write_text(ENDING)
    shop = make_shop(cpu=CPU | {"workers": 1, "max_items": 1}, BACKGROUND_APP="ending:create_app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        replaced = shop.pid()
        assert shop.pid() != replaced
    until((tmp_path / f"ended-{replaced}").exists)
    until(lambda: not alive(replaced))


def test_enqueue_in_a_child(shop: Shop) -> None:
    """An item in memory would end with the child, and is refused."""

    def work() -> None:
        current_app.extensions["background"].enqueue(int)

    error = shop.call(work).exception(BOUND)
    assert isinstance(error, EnqueuedInChildError)
    assert "durable=True" in str(error)


def test_enqueue_durable_in_a_child(make_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable one goes into the journal, and is run by a process that runs items."""
    shop = make_shop(durable=True)
    monkeypatch.setenv("FLASK_BACKGROUND_JOURNAL", str(shop.folder / "journal"))
    monkeypatch.setenv("FLASK_BACKGROUND_EXECUTORS", '{"cpu": {"kind": "process"}}')

    def work(shipped: bytes) -> Any:
        background = current_app.extensions["background"]
        task: Task[..., Any] = Task(background, background._registry.tasks["shop.work"])
        return task.using(durable=True, executor="thread").enqueue(shipped).id, os.getpid()

    item_id, pid = shop.call(work, ship(os.getpid)).result(BOUND)
    item = shop.background.get(item_id)
    assert item is not None
    assert item.result(BOUND) == os.getpid() != pid


@pytest.mark.parametrize("waits", ["blocks", "awaits"])
def test_wait_for_an_item_of_the_same_executor(
    make_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    """A wait that might never end is refused with the cure; one with a timeout, or for others, ends."""
    shop = make_shop(durable=True, cpu=CPU | {"workers": 1})
    monkeypatch.setenv("FLASK_BACKGROUND_JOURNAL", str(shop.folder / "journal"))
    monkeypatch.setenv("FLASK_BACKGROUND_EXECUTORS", '{"cpu": {"kind": "process"}}')
    monkeypatch.setenv("FLASK_BACKGROUND_APP", "tests.children:create_app")

    def enqueue(shipped: bytes, executor: str) -> WorkItem[Any]:
        background = current_app.extensions["background"]
        task: Task[..., Any] = Task(background, background._registry.tasks["shop.work"])
        return task.using(durable=True, executor=executor).enqueue(shipped)

    def block(shipped: bytes) -> Any:
        item = enqueue(shipped, "cpu")
        assert not item.wait(0.1)
        item.cancel()
        waiting = enqueue(shipped, "cpu")
        try:
            waiting.result()
        except WaitError as error:
            waiting.cancel()
            return str(error), enqueue(shipped, "thread").result(BOUND)

    async def await_it(shipped: bytes) -> Any:
        waiting = enqueue(shipped, "cpu")
        try:
            await waiting
        except WaitError as error:
            waiting.cancel()
            return str(error), await enqueue(shipped, "thread")

    item = shop.call(block if waits == "blocks" else await_it, ship(os.getpid))
    text, pid = item.result(BOUND)
    assert f"item {item.id} (shop.work) waits in a child process for item" in text
    assert "Give the awaited task another executor, or wait with a timeout" in text
    assert pid == os.getpid()
    assert shop.background.wait_idle(BOUND)


def test_stop_asks_and_then_kills(shop: Shop) -> None:
    """A stop fires the token in the child, gives the grace period, and kills."""
    asked = SharedList(shop.folder / "asked")

    def work() -> None:
        token = current_item.token
        token.on_cancel(lambda: asked.append((token.reason.value, token.remaining)))  # type: ignore[union-attr]
        asked.append("begun")
        while True:
            pass

    item = shop.call(work)
    until(lambda: len(asked))
    began = time.monotonic()
    assert shop.background.stop(0.5) == [item]
    assert 0.5 <= time.monotonic() - began < 3.0 + slack()
    assert shop.background.wait_idle(BOUND)
    assert isinstance(item.exception(0), ItemInterruptedError)
    _, (reason, remaining) = asked
    assert reason == "shutdown"
    assert 0.0 < remaining <= 0.5


def test_stop_kills_durable(make_shop: Callable[..., Shop]) -> None:
    """A durable item that was killed so is left to others, and no attempt is charged."""
    shop = make_shop(durable=True)
    item, pid = shop.begin("spin")
    assert shop.background.stop(0) == [item]
    until(lambda: not alive(pid))
    durable = state_of(shop.site.app).durable
    until(lambda: durable.session.read_row(item.id).owner is None)
    entry = durable.session.read_row(item.id)
    assert (entry.status, entry.attempt, entry.crashes) == (Status.QUEUED, 0, 0)


def test_stop_while_a_child_starts(shop: Shop) -> None:
    """Nobody waits for a child that is loading the app."""
    item = shop.call(os.getpid)
    until(lambda: [thread for thread in our_threads() if "cpu" in thread.name])
    assert shop.background.stop(0) in ([item], [])
    until(lambda: not [thread for thread in our_threads() if "cpu" in thread.name])


PROGRAM = """
import os, sys, time
from flask import Flask
from flask_background import Background
from tests.children import add_tasks
app = Flask("shop")
app.config.update(
    BACKGROUND_EXECUTORS={"cpu": {"kind": "process", "workers": 3}},
    BACKGROUND_APP="tests.children:create_app",
)
tasks = add_tasks(Background(app))
with app.app_context():
    tasks["spin"].enqueue("spin")
    tasks["hog"].enqueue("hog")
    tasks["eat"].enqueue(1).result(30)
    while not (os.path.exists("spin") and os.path.exists("hog")):
        time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


def test_parent_is_killed(script: Callable[..., Script]) -> None:
    """When the parent is gone by kill -9 so are its children: busy, idle, or in C with the GIL."""
    program = script(PROGRAM)
    program.wait_for("ready")
    left = children(program.process.pid)
    assert len(left) == 3
    program.kill()
    until(lambda: not any(map(alive, left)), 2.0)


def test_children_of_a_fork(shop: Shop) -> None:
    """A process that is forked later has children of its own, and lets these alone."""
    pid = shop.pid()
    reader, writer = os.pipe()
    forked = os.fork()
    if forked == 0:
        try:
            with shop.site.app.app_context():
                os.write(writer, str(shop.pid()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        other = int(answer.read())
    os.waitpid(forked, 0)
    assert other != pid
    assert shop.pid() == pid
    until(lambda: not alive(other))


SCRIPT = """
import os
from flask import Flask
from flask_background import Background
from flask_background.signals import item_finished
from tests.children import SharedEvent, add_tasks, hold, ship
from functools import partial
from pathlib import Path
app = Flask("shop")
app.config.update(
    BACKGROUND_EXECUTORS={"cpu": {"kind": "process"}},
    BACKGROUND_APP="tests.children:create_app",
)
tasks = add_tasks(Background(app))
item_finished.connect(lambda app, item: print("finished:", item.status, flush=True), weak=False)
with app.app_context():
    say = partial(print, "in the child", flush=True)
    tasks["work"].enqueue(ship(partial(hold, SharedEvent(Path("gate")), say)))
"""


def test_script_ends(script: Callable[..., Script]) -> None:
    """Python waits for an item that is in a child when the script is over."""
    program = script(SCRIPT)
    program.wait_for("in the child")
    assert program.ends() == 0
    assert "finished: interrupted" in program.said  # for it heeds its token


def test_threads_of_one_executor(shop: Shop) -> None:
    """Items from several threads all run, in as many children as there may be."""
    ran = SharedList(shop.folder / "ran")

    def enqueue() -> None:
        with shop.site.app.app_context():
            for _ in range(50):
                shop.call(ran.append, 1)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert shop.background.wait_idle(BOUND)
    assert len(ran) == 200
    assert shop.background.stats().succeeded == 200
