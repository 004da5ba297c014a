"""Items in child processes: limits that hold, children that die, and what is left when the parent does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, url_for
from werkzeug.datastructures import FileStorage

from flask_background import Background, CancelReason, Status, Task, WorkItem, current_item, hosts
from flask_background.errors import (
    ArgumentRefused,
    ConfigurationError,
    EnqueuedInChild,
    ItemCancelled,
    ItemCrashed,
    ItemFailed,
    ItemInterrupted,
    ItemTimeout,
    ResultLost,
)
from flask_background.executors.children import Child
from flask_background.executors.parcels import Setup

from .children import SharedEvent, SharedList, Shipping, add_tasks, hold, ship
from .helpers import BOUND, Script, Site, our_threads, until
from .integration.servers import alive

CPU = {"kind": "process", "workers": 2}


def children(pid: int | str = "self") -> set[int]:
    """The pids of a process's children, by default of this one's."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            found |= set(map(int, (task / "children").read_text().split()))
    return set(filter(alive, found))


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """No child outlives its app."""
    before = children()
    yield
    for backend in hosts.current().backends():
        backend.stop(0)
    until(lambda: not children() - before)


class Shop:
    """An app with a process executor, and the tasks that its children know."""

    def __init__(self, site: Site, folder: Path, **options: Any) -> None:
        self.site = site
        self.background = site.background
        self.folder = folder
        self.tasks: dict[str, Task[..., Any]] = add_tasks(site.background, **options)

    def call(self, func: Callable[..., Any], *args: Any, **options: Any) -> WorkItem[Any]:
        """Enqueue a call of a function of the test."""
        return Shipping(self.tasks["work"].using(**options), func).enqueue(*args)

    def pid(self) -> int:
        """The process that runs the next item."""
        pid = self.call(os.getpid).result(BOUND)
        assert isinstance(pid, int)
        return pid

    def begin(self, name: str, **options: Any) -> tuple[WorkItem[Any], int]:
        """Start an item that writes a pid into a file; both."""
        path = self.folder / f"{name}-{time.monotonic()}"
        item = self.tasks[name].using(**options).enqueue(str(path))
        return item, int(until(lambda: path.exists() and path.read_text()))


@pytest.fixture
def make_shop(make_site: Callable[..., Site], tmp_path: Path) -> Callable[..., Shop]:
    """Makes apps with an executor "cpu"; durable: with tasks that are."""

    def make(durable: bool = False, cpu: dict[str, Any] = CPU, **settings: Any) -> Shop:
        given = {
            "BACKGROUND_EXECUTORS": {"cpu": cpu},
            "BACKGROUND_APP": "tests.children:create_app",
            "BACKGROUND_KILL_AFTER": 0.2,
            "BACKGROUND_JOURNAL": tmp_path / "journal",
        }
        return Shop(make_site(**given | settings), tmp_path, durable=durable)

    return make


@pytest.fixture(params=[False, True], ids=["memory", "durable"])
def any_shop(request: pytest.FixtureRequest, make_shop: Callable[..., Shop]) -> Shop:
    """A shop whose items are in memory, or durable."""
    return make_shop(request.param)


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """A shop whose items are in memory."""
    return make_shop()


# Starting.


def test_starts_nothing_early(shop: Shop) -> None:
    """There is no child before the first item, and no second one while one is enough."""
    before = children()
    assert not [thread for thread in our_threads() if "cpu" in thread.name]
    assert shop.pid() not in {os.getpid(), *before}
    assert len(children() - before) == 1


def test_is_warm(make_shop: Callable[..., Shop]) -> None:
    """A child is kept for the next items."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    assert len({shop.pid() for _ in range(5)}) == 1


def test_child_is_nice_and_limited(make_shop: Callable[..., Shop]) -> None:
    """The child runs with the niceness of the settings, on top of the parent's."""
    shop = make_shop(cpu=CPU | {"nice": 7})
    assert shop.call(os.nice, 0).result(BOUND) == min(19, os.nice(0) + 7)


def test_time_of_the_start_is_not_the_items(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """A timeout counts from when the child is ready."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2)\nfrom tests.children import create_app\n")
    shop = make_shop(BACKGROUND_APP="slow:create_app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert shop.call(os.getpid, timeout=1.5).result(BOUND)


def test_app_cannot_be_loaded(make_shop: Callable[..., Shop]) -> None:
    """An item whose child cannot load the app fails, and says why; so does the next one."""
    shop = make_shop(BACKGROUND_APP="tests.nowhere:app")
    for _ in range(2):
        error = shop.call(os.getpid).exception(BOUND)
        assert isinstance(error, ItemCrashed)
        assert "could not load the app 'tests.nowhere:app'. BACKGROUND_APP says where" in str(error)
        assert "tests.nowhere" in str(error).partition("\n\n")[2]


def test_app_is_not_loaded_in_time(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that never comes to its end fails the item, and its child is gone."""
    (tmp_path / "serving.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("flask_background.executors.children._STARTED_WITHIN", 0.5)
    before = children()
    error = make_shop(BACKGROUND_APP="serving:app").call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashed)
    assert "did not load the app 'serving:app' within" in str(error)
    assert children() == before


def test_child_dies_as_it_starts(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """A module that ends the process when it is imported does not hang the item."""
    (tmp_path / "deadly.py").write_text("import os\nos._exit(7)\n")
    shop = make_shop(BACKGROUND_APP="deadly:app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        error = shop.call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashed)
    assert "ended with exit status 7 before it had loaded the app 'deadly:app'" in str(error)


def test_app_that_gevent_patches(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app may have gevent patch its process when it is loaded; items there hear of their tokens."""
    patching = "from gevent import monkey; monkey.patch_all()\nfrom tests.children import create_app\n"
    (tmp_path / "patching.py").write_text(patching)
    monkeypatch.syspath_prepend(tmp_path)
    shop = make_shop(BACKGROUND_APP="patching:create_app", BACKGROUND_KILL_AFTER=BOUND)
    assert shop.pid()
    item = shop.call(wait_for_token, timeout=0.1)
    assert isinstance(item.exception(BOUND), ItemTimeout)
    assert shop.pid()


def wait_for_token() -> None:
    """Wait until the token fires, and heed it."""
    assert current_item.token.wait(BOUND)
    current_item.token.raise_if_cancelled()


def test_no_memory_for_the_app(make_shop: Callable[..., Shop]) -> None:
    """A limit that is too low for the app is named."""
    error = make_shop(cpu={"kind": "process", "max_memory": 1}).call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashed)
    assert "the app 'tests.children:create_app'" in str(error)
    assert " within its max_memory of 1 MiB" in str(error)


def test_app_that_enqueues_as_it_is_loaded(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an app cannot be loaded by a child, and the error says why."""
    enqueue = "with app.app_context(): app.extensions['background'].owner.enqueue(print)\n"
    (tmp_path / "eager.py").write_text(
        f"from tests.children import create_app\napp = create_app()\n{enqueue}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    error = make_shop(BACKGROUND_APP="eager:app").call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashed)
    assert "print was enqueued in a child process, by an item or as the app was loaded there" in str(error)


def test_task_that_children_would_not_find(shop: Shop) -> None:
    """Another task of the same name is refused where it is enqueued."""
    other = shop.background.task(name="shop.other", executor="cpu")(lambda: 1)
    shop.background.task(name="shop.other", executor="cpu")(lambda: 2)
    with pytest.raises(ConfigurationError, match=r"shop\.other wants the executor 'cpu'.*of this name"):
        other.enqueue()


def test_task_that_the_child_does_not_have(shop: Shop) -> None:
    """A task that is made in one process only fails there, by name."""
    here = shop.background.task(name="shop.here", executor="cpu")(lambda: 1)
    error = here.enqueue().exception(BOUND)
    assert isinstance(error, LookupError)
    assert "no task 'shop.here' in a child process" in str(error)


STARTED = """
import os, sys, time
from flask import Flask
from flask_background import Background
app = Flask(__name__)
app.config.update(BACKGROUND_EXECUTORS={"cpu": {"kind": "process"}}, BACKGROUND_APP="script:app")
background = Background(app)
class Order: pass
@background.task(executor="cpu")
def work(order=None):
    print("in the child")
    os._exit(3)
if __name__ == "__main__":
    with app.app_context():
        print(work.enqueue().exception(60))
        print(*work.enqueue(Order()).exception(60).__notes__)
"""


def test_script(script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a script, children know the tasks but not the classes, which the error says; prints are not lost."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = script(STARTED)
    assert program.ends() == 0
    assert "in the child\n" in program.said
    assert "ended with exit status 3" in program.said
    assert "in a module that can be imported there, not in a script" in program.said


# What an item sees and gives.


def look_around() -> Any:
    """What is there."""
    g.seen = True
    state = current_item.state
    assert state is not None
    return (
        current_app.name,
        state.path,
        dict(state.values),
        current_item.attempt,
        url_for("static", filename="x"),
    )


def test_sees_what_items_see(shop: Shop) -> None:
    """An item has an app context, its state, and URLs with the request's root."""
    shop.background.state_processor(lambda: {"user": [7]})
    with shop.site.app.test_request_context("/photos", base_url="https://example.com/shop"):
        item = shop.call(look_around)
    assert item.result(BOUND) == ("shop", "/photos", {"user": [7]}, 1, "https://example.com/shop/static/x")


def test_coroutine_function(shop: Shop) -> None:
    """A coroutine runs on a loop of its own, and is cancelled at its await."""

    async def work(gate: SharedEvent) -> Any:
        gate.set()
        await asyncio.sleep(BOUND)

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert shop.call(answer).result(BOUND) == 42
    gate = SharedEvent(shop.folder / "gate")
    item = shop.call(work, gate)
    until(gate.is_set)
    pid = shop.pid()
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelled)
    assert alive(pid)


def use_a_pool() -> list[int]:
    """Compute in forks, which the pool ends by SIGTERM."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def test_pool_of_forks(shop: Shop) -> None:
    """An item may use a pool of multiprocessing, which ends."""
    assert shop.call(use_a_pool, timeout=BOUND).result(BOUND) == [1, 2]


async def clean_up(seen: SharedList) -> None:
    """Wait to be cancelled, and do something then."""
    seen.append("begun")
    try:
        await asyncio.sleep(BOUND)
    finally:
        seen.append("cleaned up")


ONE = {"cpu": CPU | {"workers": 1}}


def test_cancelled_coroutine_cleans_up(make_shop: Callable[..., Shop]) -> None:
    """It is not its child's death that ends it."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)
    pid = shop.pid()
    seen = SharedList(shop.folder / "seen")
    item = shop.call(clean_up, seen)
    until(lambda: len(seen))
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelled)
    assert seen == ["begun", "cleaned up"]
    assert shop.pid() == pid


def test_coroutine_is_cancelled_while_the_host_stops(make_shop: Callable[..., Shop]) -> None:
    """Also if the token has fired for the stop."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)
    seen = SharedList(shop.folder / "seen")
    item = shop.call(clean_up, seen)
    until(lambda: len(seen))
    stopping = threading.Thread(target=shop.background.stop, args=(60,))
    stopping.start()
    until(lambda: item.token.cancelled)
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemInterrupted)
    assert seen == ["begun", "cleaned up"]
    stopping.join(BOUND)


def test_thread_that_a_coroutine_has_left(make_shop: Callable[..., Shop]) -> None:
    """It counts as the item's, so its child is killed, and the next item does not wait for it."""
    shop = make_shop(**ONE)

    async def work(begun: SharedEvent) -> None:
        begun.set()
        await asyncio.to_thread(time.sleep, 60)

    pid = shop.pid()
    begun = SharedEvent(shop.folder / "begun")
    item = shop.call(work, begun)
    until(begun.is_set)
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelled)
    assert shop.pid() != pid


def test_task_that_exits(make_shop: Callable[..., Shop]) -> None:
    """What a coroutine has left on its loop ends itself alone, as on the event loop's executor."""
    shop = make_shop(**ONE)

    async def work() -> int:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(0.01)
        return os.getpid()

    assert shop.call(work).result(BOUND) == shop.pid()


def test_future(shop: Shop) -> None:
    """A function may leave its work to a Future, which has the upload until it ends."""

    def work(upload: FileStorage) -> Any:
        gate = threading.Timer(0.1, int)
        gate.start()

        def read() -> bytes:
            gate.join()
            return upload.read()

        return concurrent.futures.ThreadPoolExecutor(1).submit(read)

    assert shop.call(work, FileStorage(io.BytesIO(b"meow"), "cat.png")).result(BOUND) == b"meow"


class Foreign:
    """What can be read in the process alone that made it."""

    def __reduce__(self) -> Any:
        return _read_foreign, (os.getpid(),)


def _read_foreign(pid: int) -> Foreign:
    if pid != os.getpid():
        raise ValueError("it is from another process")
    return Foreign()


def test_progress_that_cannot_be_read(make_shop: Callable[..., Shop]) -> None:
    """It fails its item, and whatever that does meanwhile is not taken for the next one's doing."""
    shop = make_shop(**ONE)

    def work() -> str:
        current_item.report_progress(Foreign())  # type: ignore[arg-type]
        time.sleep(0.1)
        return "too late"

    for _ in range(2):
        assert "from another process" in str(shop.call(work).exception(BOUND))
        assert shop.call(len, "next").result(BOUND) == 4


def test_progress_is_seen_while_it_runs(shop: Shop) -> None:
    """What an item reports reaches its handle soon, also the last of many reports."""

    def work(gate: SharedEvent) -> None:
        for number in range(1_000):
            current_item.report_progress(number, 1_000)
        gate.wait()

    gate = SharedEvent(shop.folder / "gate")
    item = shop.call(work, gate)
    until(lambda: item.progress == (999, 1_000, None))
    gate.set()
    assert item.result(BOUND) is None


class Closed:
    """What cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this is closed")


class Odd(Exception):
    """An error that cannot be made anew from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_oddly() -> None:
    """Raise one."""
    raise Odd(1, 2)


def test_argument_that_cannot_be_sent(shop: Shop) -> None:
    """It is refused in the view, by name."""
    task = shop.background.task(name="shop.print", executor="cpu")(lambda paper, ink: None)
    with pytest.raises(ArgumentRefused, match=r"^ink cannot be sent to a child process \(this is closed\)"):
        task.enqueue("A4", Closed())
    with pytest.raises(ArgumentRefused, match=r"^ink cannot"):
        task.enqueue("A4", ink=[Closed()])


def test_arguments_are_those_of_the_enqueueing(shop: Shop) -> None:
    """What the view changes afterwards does not matter."""
    gate = SharedEvent(shop.folder / "gate")
    values = [1]
    items = [shop.call(partial(hold, gate, int)) for _ in range(2)]
    item = shop.call(sum, values)
    values.append(2)
    gate.set()
    assert item.result(BOUND) == 1
    assert [each.result(BOUND) for each in items] == [0, 0]


def test_result_that_cannot_be_sent(shop: Shop) -> None:
    """The item has succeeded; its result is lost, which its handle says."""
    item = shop.call(Closed)
    with pytest.raises(ResultLost, match=rf"item {item.id} .*cannot be sent .*this is closed"):
        item.result(BOUND)
    assert item.status is Status.SUCCEEDED


def test_durable_result_that_cannot_be_sent(make_shop: Callable[..., Shop]) -> None:
    """The journal knows that it is lost, too."""
    shop = make_shop(durable=True)
    item = shop.call(Closed)
    with pytest.raises(ResultLost):
        item.result(BOUND)
    entry = shop.site.app.extensions["background"].durable.look(item.id)
    assert "lost" in entry.result


def test_error_that_cannot_be_sent(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The handle raises its text instead; the log has the child's traceback."""
    item = shop.call(fail_oddly)
    with pytest.raises(ItemFailed, match=r"failed with tests\.test_processes\.Odd: 1 and 2"):
        item.result(BOUND)
    assert "in fail_oddly" in caplog.text


def read_upload(upload: FileStorage) -> Any:
    """All that it has."""
    return upload.filename, upload.name, upload.content_type, upload.read()


@pytest.mark.parametrize("kind", [io.BytesIO, tempfile.TemporaryFile], ids=["memory", "file"])
def test_upload(any_shop: Shop, kind: Callable[[], Any]) -> None:
    """An upload comes along, wherever it is kept."""
    stream = kind()
    stream.write(b"x" * 100_000)
    upload = FileStorage(stream, "cat.png", "photo", "image/png")
    item = any_shop.call(read_upload, upload)
    assert upload.stream is not stream
    assert item.result(BOUND) == ("cat.png", "photo", "image/png", b"x" * 100_000)
    until(lambda: stream.closed or any_shop.tasks["work"].durable)


# Limits.


@pytest.mark.parametrize("name", ["spin", "hog"])
def test_timeout_is_hard(any_shop: Shop, name: str) -> None:
    """Whatever an item does, it is ended soon after its token has fired. Others go on, the next ones run."""
    gate = SharedEvent(any_shop.folder / "gate")
    other = any_shop.call(partial(hold, gate, os.getpid))
    item, pid = any_shop.begin(name, timeout=1.0)
    began = time.monotonic()
    error = item.exception(BOUND)
    assert time.monotonic() - began < 5.0
    assert isinstance(error, ItemTimeout)
    assert "killed 0.2 s after" in str(error.__cause__)
    assert item.status is Status.FAILED
    assert item.token.reason is CancelReason.TIMEOUT
    assert not alive(pid)
    gate.set()
    assert other.result(BOUND) not in {pid, os.getpid()}
    assert any_shop.pid() != pid


def test_cancel_is_hard(any_shop: Shop) -> None:
    """So is cancelling."""
    item, pid = any_shop.begin("spin")
    assert item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelled)
    assert item.status is Status.CANCELLED
    assert not alive(pid)


def test_who_heeds_the_token_is_not_killed(make_shop: Callable[..., Shop]) -> None:
    """An item that ends when it is asked to leaves its child alive."""
    shop = make_shop(cpu=CPU | {"workers": 1}, BACKGROUND_KILL_AFTER=60)
    pid = shop.pid()
    item = shop.call(partial(hold, SharedEvent(shop.folder / "never"), int), timeout=0.1)
    assert isinstance(item.exception(BOUND), ItemTimeout)
    assert shop.pid() == pid


def test_item_may_have_very_long(make_shop: Callable[..., Shop]) -> None:
    """Who sets no limit gets none."""
    shop = make_shop(BACKGROUND_KILL_AFTER=1e10)
    begun = SharedList(shop.folder / "begun")
    item = shop.call(partial(hold, SharedEvent(shop.folder / "never"), partial(begun.append, 1)))
    until(lambda: len(begun))
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelled)
    assert item.status is Status.CANCELLED


def test_child_that_does_not_listen(make_shop: Callable[..., Shop]) -> None:
    """A timeout holds although the arguments do not even get through."""
    shop = make_shop(**ONE)
    pid = shop.pid()
    os.kill(pid, signal.SIGSTOP)
    item = shop.call(len, bytes(1 << 20), timeout=0.2)
    assert isinstance(item.exception(BOUND), ItemTimeout)
    assert shop.pid() != pid


def test_callback_that_takes_long(make_shop: Callable[..., Shop]) -> None:
    """A callback of a token that does not end does not hold up the next item."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)

    def work(registered: SharedEvent) -> int:
        current_item.token.on_cancel(partial(time.sleep, 60))
        registered.set()
        until(lambda: current_item.token.cancelled)
        return os.getpid()

    registered = SharedEvent(shop.folder / "registered")
    item = shop.call(work, registered)
    until(registered.is_set)
    item.cancel()
    pid = item.result(BOUND)
    assert shop.pid() == pid


def test_kill_reaches_what_the_item_has_started(shop: Shop) -> None:
    """A program that the item waits for ends with it."""
    item, program = shop.begin("start_another")
    item.cancel()
    assert item.wait(BOUND)
    until(lambda: not alive(program))


def test_memory_is_limited(make_shop: Callable[..., Shop]) -> None:
    """What wants more than max_memory gets a MemoryError, which ends that item alone."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 300})
    pid = shop.pid()
    assert isinstance(shop.tasks["eat"].enqueue(400).exception(BOUND), MemoryError)
    assert shop.tasks["eat"].enqueue(50).result(BOUND) == 50 << 20
    assert shop.pid() == pid


def test_all_memory_is_used(make_shop: Callable[..., Shop]) -> None:
    """An item that has left none has that for its failure, and its child lives."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 200})

    def work() -> None:
        eaten: list[Any] = []
        while True:
            eaten = [eaten, object()]

    pid = shop.pid()
    assert isinstance(shop.call(work).exception(BOUND), MemoryError)
    assert shop.pid() == pid


def test_no_memory_for_the_result(make_shop: Callable[..., Shop]) -> None:
    """A result that exists, and for whose copies there is no memory, is lost, and the item has succeeded."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 300})
    pid = shop.pid()
    for mebibytes in (100, 200):  # no memory for the message, or not even for its pickle
        item = shop.call(bytes, mebibytes << 20)
        assert isinstance(item.exception(BOUND), ResultLost)
        assert item.status is Status.SUCCEEDED
    assert shop.pid() == pid


def test_no_memory_for_the_arguments(make_shop: Callable[..., Shop]) -> None:
    """A child that cannot even read its arguments ends, and fails the item."""
    shop = make_shop(cpu={"kind": "process", "workers": 1, "max_memory": 200})
    item = shop.tasks["work"].enqueue(ship(len), bytes(300 << 20))
    assert isinstance(item.exception(BOUND), ItemCrashed)
    assert shop.pid()


# Children that die.


@pytest.mark.parametrize(
    ("name", "argument", "how"),
    [
        ("segfault", (), "was ended by SIGSEGV"),
        ("leave", (3,), "ended with exit status 3"),
        ("leave", (0,), "ended with exit status 0"),
        ("die_by", (signal.SIGKILL,), "was ended by SIGKILL (by the system for want of memory, perhaps)"),
        ("die_by", (signal.SIGABRT,), "was ended by SIGABRT"),
    ],
)
def test_child_dies(make_shop: Callable[..., Shop], name: str, argument: tuple[int, ...], how: str) -> None:
    """The item fails with how its child has ended; another child takes over."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    pid = shop.pid()
    item = shop.tasks[name].enqueue(*map(int, argument))
    error = item.exception(BOUND)
    assert isinstance(error, ItemCrashed)
    assert str(error) == f"child process {pid} {how} while it ran item {item.id} (shop.{name})"
    assert item.status is Status.FAILED
    assert shop.pid() != pid


def test_child_dies_and_leaves_another(shop: Shop) -> None:
    """A process that the item has forked may hold its pipes: the death is seen all the same."""

    def work() -> None:
        if os.fork() == 0:
            time.sleep(BOUND)
            os._exit(0)
        os._exit(5)

    began = time.monotonic()
    assert "exit status 5" in str(shop.call(work).exception(BOUND))
    assert time.monotonic() - began < BOUND / 2


def test_child_dies_with_what_it_has_started(shop: Shop) -> None:
    """A program that a crashed item has started does not go on beside the next attempt."""
    path = shop.folder / "pid"

    def work() -> None:
        path.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        os._exit(5)

    assert isinstance(shop.call(work).exception(BOUND), ItemCrashed)
    until(lambda: not alive(int(path.read_text())))


def test_no_descriptors_for_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that finds too many files open leaves no more of them open."""
    made: list[int] = []
    pipe = os.pipe

    def limited() -> tuple[int, int]:
        if len(made) == 4:
            raise OSError(errno.EMFILE, "too many open files")
        made.extend(ends := pipe())
        return ends

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", limited)
        with pytest.raises(OSError, match="too many"):
            Child(Setup("shop:app", 0, None))
    for end in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_idle_child_dies(make_shop: Callable[..., Shop]) -> None:
    """A child that dies while it has nothing to do fails no item."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    for wait in (0.05, 0.6):  # within the time in which it is taken to be alive, and after it
        pid = shop.pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        time.sleep(wait)
        assert shop.pid() != pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_child_leaves_signals_to_its_parent(make_shop: Callable[..., Shop], number: int) -> None:
    """What the terminal or a process manager sends to all processes does not end the child."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    pid = shop.pid()
    os.kill(pid, number)
    assert shop.pid() == pid


def test_handler_of_the_app(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """Not even if the app has a handler of its own."""
    rude = (
        "import signal, sys\nsignal.signal(signal.SIGTERM, sys.exit)\nfrom tests.children import create_app\n"
    )
    (tmp_path / "rude.py").write_text(rude)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        shop = make_shop(**ONE, BACKGROUND_APP="rude:create_app")
        pid = shop.pid()
    os.kill(pid, signal.SIGTERM)
    assert shop.pid() == pid


def test_handler_that_an_item_has_left(make_shop: Callable[..., Shop]) -> None:
    """Between two items it ends the child, and not the threads that another one waits for."""
    shop = make_shop(**ONE)

    def work() -> int:
        threading.Thread(target=time.sleep, args=(60,)).start()
        signal.signal(signal.SIGALRM, sys.exit)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return os.getpid()

    pid = shop.call(work).result(BOUND)
    until(lambda: not alive(pid))
    assert shop.pid() != pid


def test_forked_process_heeds_signals(shop: Shop) -> None:
    """An item that forks can end what it has forked."""

    def work() -> int | None:
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        forked.start()
        forked.terminate()
        forked.join(BOUND)
        return forked.exitcode

    assert shop.call(work).result(BOUND) == -signal.SIGTERM


def test_forked_process_comes_back(make_shop: Callable[..., Shop]) -> None:
    """A process that an item has forked, and that returns from its function, does not answer for it."""
    shop = make_shop(**ONE)

    def work() -> int:
        if forked := os.fork():
            os.waitpid(forked, 0)
        return forked

    assert shop.call(work).result(BOUND) > 0
    assert shop.call(len, "next").result(BOUND) == 4


def test_prints(shop: Shop, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What an item prints is seen when it has ended: its child may be killed at any moment after that."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    shop.call(print, "said").result(BOUND)
    assert "said" in capfd.readouterr().out


def crash_once(ran: SharedList) -> int:
    """Die in the first attempt."""
    ran.append(current_item.attempt)
    if current_item.attempt == 1:
        os._exit(1)
    return len(ran)


def test_crash_is_an_attempt(any_shop: Shop) -> None:
    """Another attempt follows a crash, if there is one; that is no crash of this process."""
    ran = SharedList(any_shop.folder / "ran")
    shipped = partial(crash_once, ran)
    item = any_shop.call(shipped, max_attempts=2, backoff=0)
    assert item.result(BOUND) == 2
    assert ran == [1, 2]
    item = any_shop.call(shipped)
    assert isinstance(item.exception(BOUND), (ItemCrashed, ItemFailed))
    assert item.attempt == 1


# Items that enqueue.


def test_enqueue_in_a_child(shop: Shop) -> None:
    """An item in memory would end with the child, and is refused."""

    def work() -> None:
        current_app.extensions["background"].owner.enqueue(int)

    error = shop.call(work).exception(BOUND)
    assert isinstance(error, EnqueuedInChild)
    assert "make it durable=True" in str(error)


def test_enqueue_durable_in_a_child(make_shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable one goes into the journal, and is run by a process that runs items."""
    shop = make_shop(durable=True)
    monkeypatch.setenv("FLASK_BACKGROUND_JOURNAL", str(shop.folder / "journal"))
    monkeypatch.setenv("FLASK_BACKGROUND_EXECUTORS", '{"cpu": {"kind": "process"}}')

    def work(shipped: bytes) -> Any:
        task = current_app.extensions["background"].owner.registry.tasks["shop.work"]
        return task.using(durable=True, executor="thread").enqueue(shipped).id, os.getpid()

    item_id, pid = shop.call(work, ship(os.getpid)).result(BOUND)
    item = shop.background.get(item_id)
    assert item is not None
    assert item.result(BOUND) == os.getpid() != pid


# The end.


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
    assert 0.5 <= time.monotonic() - began < 3.0
    assert shop.background.wait_idle(BOUND)
    assert isinstance(item.exception(0), ItemInterrupted)
    _, (reason, remaining) = asked
    assert reason == "shutdown"
    assert 0.0 < remaining <= 0.5


def test_stop_kills_durable(make_shop: Callable[..., Shop]) -> None:
    """A durable item that was killed so is left to others, and no attempt is charged."""
    shop = make_shop(durable=True)
    item, pid = shop.begin("spin")
    assert shop.background.stop(0) == [item]
    until(lambda: not alive(pid))
    durable = shop.site.app.extensions["background"].durable
    until(lambda: durable.look(item.id).owner is None)
    entry = durable.look(item.id)
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


# Where the app is: see test_location. Here, that it is asked for in the view.


def test_app_is_nowhere(make_shop: Callable[..., Shop]) -> None:
    """An app that children would not find is told so at the first enqueue, durable or not."""
    for durable in (False, True):
        shop = make_shop(durable, BACKGROUND_APP=None)
        with pytest.raises(ConfigurationError, match=r'BACKGROUND_APP = "shop:app"'):
            shop.call(os.getpid)


def test_wrong_location(make_site: Callable[..., Site]) -> None:
    """A location that is no text is refused by init_app."""
    app = Flask("shop")
    app.config["BACKGROUND_APP"] = app
    with pytest.raises(ConfigurationError, match="BACKGROUND_APP is <Flask 'shop'>"):
        Background(app)
