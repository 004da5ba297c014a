"""Items in a process that gevent has patched: whatever works in a view works in them."""

from __future__ import annotations

import asyncio
import errno
import logging
import multiprocessing
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask
from gevent.event import Event

from flask_background import Background, Status, current_item
from flask_background.concurrency import native
from flask_background.errors import ItemTimeoutError
from flask_background.logging import ItemFilter

from ..children import add_tasks, ship
from ..helpers import BOUND, Site, until

HERE = threading.get_native_id()
real_sleep = native.original("time", "sleep")


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with an executor of real threads, and a journal."""
    real = {"real": {"kind": "native-thread", "workers": 4}}
    return make_site(BACKGROUND_EXECUTORS=real, BACKGROUND_JOURNAL=tmp_path / "journal")


@pytest.fixture
def background(site: Site) -> Background:
    """The app's Background."""
    return site.background


@pytest.fixture
def beats() -> Iterator[list[float]]:
    """Grows as long as the hub serves other greenlets."""
    beats: list[float] = []

    def beat() -> None:
        while True:
            beats.append(time.monotonic())
            gevent.sleep(0.005)

    greenlet = gevent.spawn(beat)
    yield beats
    greenlet.kill()


def in_native_thread(func: Callable[[], Any]) -> Any:
    """Call func in a thread of the operating system, and wait without holding up the hub."""
    done, results = native.Latch(), []

    def run() -> None:
        try:
            results.append(func())
        finally:
            done.open()

    native.start_thread(run, "background-test")
    assert done.wait(BOUND)
    return results[0]


# Where items run.


def test_functions_run_in_the_main_thread(background: Background) -> None:
    """A function runs on a greenlet of its own in the main thread."""
    here = gevent.getcurrent()
    item = background.enqueue(lambda: (threading.get_native_id(), gevent.getcurrent() is here))
    assert item.result(BOUND) == (HERE, False)


def test_coroutines_run_in_the_main_thread(background: Background) -> None:
    """A coroutine runs in the main thread as well, and so does what a function returns to be awaited."""

    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_native_id()

    assert background.enqueue(where).result(BOUND) == HERE
    assert background.enqueue(lambda: where()).result(BOUND) == HERE


def test_real_threads_by_name(background: Background) -> None:
    """An executor of the kind "native-thread" runs functions on threads of the operating system."""

    @background.task(executor="real")
    def where() -> int:
        real_sleep(0.01)
        return threading.get_native_id()

    assert where.enqueue().result(BOUND) != HERE


def test_others_go_on(background: Background, beats: list[float]) -> None:
    """While items sleep, and while a view waits for them, other greenlets go on."""

    async def coroutine() -> None:
        await asyncio.sleep(0.2)

    def idle() -> bool:
        background.enqueue(time.sleep, 0.2)
        return background.wait_idle(BOUND)

    for wait in (
        lambda: background.enqueue(time.sleep, 0.2).wait(BOUND),
        lambda: background.enqueue(coroutine).wait(BOUND),
        idle,
    ):
        before = len(beats)
        assert wait()
        assert len(beats) - before > 5


def test_busy_coroutines_let_others_go_on(background: Background, beats: list[float]) -> None:
    """A coroutine that never really waits lets other greenlets go on at its awaits."""

    async def busy() -> None:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            await asyncio.sleep(0)

    assert background.enqueue(busy).result(BOUND) is None
    assert len(beats) > 5


def test_fresh_context(background: Background) -> None:
    """Neither the view's context variables nor another item's flow to an item, or to what logs its end."""
    visitor: ContextVar[str] = ContextVar("visitor")
    seen: list[str] = []

    class Handler(logging.Handler):
        """Remembers the visitor that each line is logged for."""

        def emit(self, record: logging.LogRecord) -> None:
            seen.append(visitor.get("nobody"))

    def work() -> str:
        before = visitor.get("nobody")
        visitor.set("an item")
        raise RuntimeError(before)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    token = visitor.set("Alice")
    try:
        assert [str(background.enqueue(work).exception(BOUND)) for _ in range(2)] == ["nobody"] * 2
    finally:
        visitor.reset(token)
        logging.getLogger().removeHandler(handler)
    assert "Alice" not in seen


# Waiting for one another.


def test_enqueue_in_native_thread(background: Background) -> None:
    """An item that comes from a native thread begins at once, though the hub sleeps."""
    ran = Event()
    native.start_thread(lambda: background.enqueue(ran.set), "background-test")
    began = time.monotonic()
    assert ran.wait(BOUND)
    assert time.monotonic() - began < BOUND / 2


def test_wait_in_native_thread(background: Background) -> None:
    """A native thread can wait for an item on a greenlet, and a greenlet for one on a native thread."""
    item = background.enqueue(lambda: (time.sleep(0.05), 7)[1])
    assert in_native_thread(lambda: item.result(BOUND)) == 7
    real = background.task(executor="real")(lambda: real_sleep(0.05))
    assert real.enqueue().wait(BOUND)


def test_item_waits_for_items(background: Background) -> None:
    """Items on greenlets wait for each other, and for coroutines."""

    async def coroutine() -> int:
        await asyncio.sleep(0.01)
        return await background.enqueue(lambda: 1)

    def function() -> int:
        return background.enqueue(coroutine).result(BOUND) + background.enqueue(lambda: 1).result(BOUND)

    assert background.enqueue(function).result(BOUND) == 2


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_items_wait_for_their_own_executor(
    make_site: Callable[..., Site], tmp_path: Path, kind: str, durable: bool
) -> None:
    """More items than there are places, each of which waits for one of the same executor, end."""
    site = make_site(
        BACKGROUND_WORKERS=1,
        BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 1}},
        BACKGROUND_JOURNAL=tmp_path / "journal",
    )
    task = site.background.task(durable=durable)

    def part(number: int) -> int:
        return number

    async def part_later(number: int) -> int:
        return number

    parts: Any = task(part if kind == "function" else part_later)

    def whole(number: int) -> int:
        return int(parts.enqueue(number).result())

    async def whole_later(number: int) -> int:
        return int(await parts.enqueue(number))

    wholes: Any = site.background.task(whole if kind == "function" else whole_later)
    assert [item.result(BOUND) for item in [wholes.enqueue(number) for number in range(5)]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_items_wait_for_a_delayed_item(make_site: Callable[..., Site], kind: str) -> None:
    """An item at the limit of its executor that waits for one that is not due yet ends once that is due."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 1}})
    task = site.background.task

    def part() -> int:
        return 42

    async def part_later() -> int:
        return 42

    late: Any = task(part if kind == "function" else part_later).using(delay=0.6)

    def whole() -> int:
        return int(late.enqueue().result())

    async def whole_later() -> int:
        return int(await late.enqueue())

    wholes: Any = task(whole if kind == "function" else whole_later)
    assert wholes.enqueue().result(BOUND) == 42


def test_event_from_an_item(background: Background) -> None:
    """Greenlets that wait for gevent's own events are woken at once, as Flask-SocketIO's emit needs it."""
    event = Event()
    assert background.enqueue(lambda: (time.sleep(0.01), event.set())).wait(BOUND)
    assert event.is_set()


def test_timeout(background: Background) -> None:
    """The token of an item on a greenlet fires in time; its callbacks may take patched locks."""
    lock, called = threading.Lock(), []

    @background.task(timeout=0.05)
    def work() -> None:
        def callback() -> None:
            with lock:
                called.append(threading.get_native_id())

        current_item.token.on_cancel(callback)
        assert current_item.token.wait(BOUND)
        with lock:
            time.sleep(0.05)
        current_item.token.raise_if_cancelled()

    item = work.enqueue()
    assert type(item.exception(BOUND)).__name__ == "ItemTimeoutError"
    until(lambda: called)
    assert called == [HERE]


def test_stop(background: Background, beats: list[float]) -> None:
    """A stop lets items on greenlets end, though the main greenlet waits for them."""
    items = [
        background.enqueue(lambda: (time.sleep(0.3), current_item.token.reason.value)[1])  # type: ignore[union-attr]
        for _ in range(3)
    ]
    gevent.sleep(0.02)
    before = len(beats)
    assert background.stop(BOUND) == []
    assert [item.result(0) for item in items] == ["shutdown"] * 3
    assert len(beats) - before > 5


# What items share with views.


def test_shared_lock(background: Background) -> None:
    """Items and views that take one lock all get on."""
    lock = threading.Lock()

    def sell() -> None:
        for _ in range(20):
            with lock:
                time.sleep(0.001)

    items = [background.enqueue(sell) for _ in range(4)]
    sell()
    for item in items:
        assert item.result(BOUND) is None


@pytest.mark.usefixtures("hasty")
def test_logging(background: Background, tmp_path: Path) -> None:
    """Functions, coroutines, durable items, native threads' ends and views all log through one handler."""
    log, handler = logging.getLogger("shop"), logging.FileHandler(tmp_path / "log")
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    def function() -> None:
        for _ in range(100):
            log.info("function")
            if not _ % 10:
                time.sleep(0)

    async def coroutine() -> None:
        for _ in range(100):
            log.info("coroutine")
            if not _ % 10:
                await asyncio.sleep(0)

    tasks = [
        background.task(name="function", durable=True)(function),
        background.task(name="coroutine", durable=True)(coroutine),
        background.task(name="memory")(function),
        background.task(name="real", executor="real")(lambda: real_sleep(0.001)),
    ]
    try:
        items = [task.enqueue() for _ in range(10) for task in tasks]
        while any(item.status is Status.QUEUED for item in items):
            log.info("view")
            gevent.sleep(0.001)
        assert all(item.wait(BOUND) for item in items)
        assert {item.status for item in items} == {Status.SUCCEEDED}
    finally:
        log.removeHandler(handler)
        handler.close()


def test_connection_pool(background: Background, tmp_path: Path) -> None:
    """Items and views share a pool of one database connection, whether their transactions fail or not."""
    import sqlalchemy  # a child process that imports this module for its functions has no time for that

    engine = sqlalchemy.create_engine(
        f"sqlite:///{tmp_path / 'shop.db'}", poolclass=sqlalchemy.pool.QueuePool, pool_size=1, max_overflow=0
    )

    def buy(fails: bool) -> int:
        with engine.begin() as connection:
            one: int = connection.execute(sqlalchemy.text("select 1")).scalar_one()
            time.sleep(0.002)
            if fails:
                raise LookupError
        return one

    items = [background.enqueue(buy, number % 2 == 1) for number in range(20)]
    assert buy(False) == 1
    assert [type(item.exception(BOUND)) for item in items] == [type(None), LookupError] * 10
    engine.dispose()


def test_program(background: Background) -> None:
    """An item runs a program."""

    def convert() -> tuple[int, bytes]:
        run = subprocess.run(["sh", "-c", "echo out; exit 3"], stdout=subprocess.PIPE, timeout=BOUND)
        return run.returncode, run.stdout

    items = [background.enqueue(convert) for _ in range(5)]
    assert [item.result(BOUND) for item in items] == [(3, b"out\n")] * 5


def answer(queue: Any) -> None:
    """Run in a child process."""
    queue.put(42)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(background: Background, method: str) -> None:
    """An item starts a process by multiprocessing."""

    def work() -> tuple[int, int | None]:
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()  # gevent leaves no Pipe that works both ways, in views neither
        process = context.Process(target=answer, args=(queue,))
        process.start()
        answered = queue.get()
        process.join(BOUND)
        queue.close()
        return answered, process.exitcode

    assert background.enqueue(work).result(BOUND) == (42, 0)


def test_fork_begins_anew(background: Background) -> None:
    """A child that was forked in an item runs items of its own."""

    def work() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(background.enqueue(lambda: 7).result(BOUND))
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert background.enqueue(work).result(BOUND) == 7


# What coroutines need.


def all_of(background: Background, coroutine: Callable[[], Any], count: int = 5) -> list[Any]:
    """The results of some items, while a view runs an event loop of its own."""
    items = [background.enqueue(coroutine) for _ in range(count)]

    async def view() -> int:
        await asyncio.sleep(0.01)
        return 5

    for _ in range(3):
        assert asyncio.run(view()) == 5
    return [item.result(BOUND) for item in items]


def test_to_thread(background: Background) -> None:
    """``asyncio.to_thread`` works."""

    async def work() -> int:
        return await asyncio.to_thread(lambda: (time.sleep(0.02), 7)[1])

    assert all_of(background, work) == [7] * 5


def test_open_connection(background: Background) -> None:
    """A coroutine connects to a server that it knows by name."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                connection.sendall(b"hello\n")
                connection.close()

        serving = gevent.spawn(serve)

        async def work() -> bytes:
            port = server.getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

        assert all_of(background, work) == [b"hello\n"] * 5
        serving.kill()


def test_asyncio_program(background: Background) -> None:
    """A coroutine runs a program, with pipes."""

    async def work() -> tuple[int | None, bytes, bytes]:
        program = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            "read word; echo out $word; echo err >&2; exit 3",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await program.communicate(b"word\n")
        return program.returncode, out, err

    assert all_of(background, work) == [(3, b"out word\n", b"err\n")] * 5


def test_asyncio_program_is_killed(background: Background) -> None:
    """A coroutine kills its program, and hears of its end."""

    async def work() -> int:
        program = await asyncio.create_subprocess_exec("sleep", "100")
        program.kill()
        return await program.wait()

    assert all_of(background, work) == [-9] * 5


def test_async_generators(background: Background) -> None:
    """An asynchronous generator that an item leaves is the item's loop's, and one of a view the view's."""

    async def numbers() -> Any:
        for number in range(3):
            yield number
            await asyncio.sleep(0.01)

    async def work() -> list[int]:
        async for _ in numbers():
            break
        return [number async for number in numbers()]

    assert all_of(background, work) == [[0, 1, 2]] * 5


def test_loop_is_nobody_elses(background: Background) -> None:
    """While a coroutine blocks in gevent, a view has no running event loop, and may run one."""
    blocking, go_on = Event(), Event()

    async def work() -> bool:
        loop = asyncio.get_running_loop()
        blocking.set()
        go_on.wait(BOUND)
        return asyncio.get_running_loop() is loop

    item = background.enqueue(work)
    assert blocking.wait(BOUND)
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert asyncio.run(asyncio.sleep(0, 3)) == 3
    go_on.set()
    assert item.result(BOUND) is True


def test_immediate_coroutine(make_site: Callable[..., Site], beats: list[float]) -> None:
    """A coroutine item that runs where it is enqueued does not hold up other greenlets."""

    async def work() -> int:
        await asyncio.sleep(0.2)
        return await asyncio.to_thread(lambda: 7)

    site = make_site(BACKGROUND_BACKEND="immediate")
    assert site.background.task(work).enqueue().result(0) == 7
    assert len(beats) > 5


def test_two_apps(make_site: Callable[..., Site]) -> None:
    """Each app of a process has a loop of its own."""

    async def loop() -> Any:
        return asyncio.get_running_loop()

    sites = [make_site(name) for name in ("one", "two")]
    one, two = (site.background.enqueue(loop).result(BOUND) for site in sites)
    assert one is not two


def test_app_without_enqueueing_is_free() -> None:
    """An app of which no item ran leaves nothing behind."""
    Background(Flask("idle"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background-")]


@pytest.mark.parametrize("where", ["in a view", "in a native thread"])
def test_no_descriptors_for_the_loop(
    background: Background, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A coroutine without an event loop is refused, that of a function fails, and later ones run."""

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    def no_loop() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    def refused() -> str:
        with pytest.raises(RuntimeError, match=r"no event loop can be made.*Too many open files") as raised:
            background.enqueue(answer)
        return str(raised.value)

    with monkeypatch.context() as patch:
        patch.setattr(native, "new_event_loop", no_loop)
        assert refused() if where == "in a view" else in_native_thread(refused)
        error = background.enqueue(lambda: answer()).exception(BOUND)
        assert "no event loop can be made" in str(error)
        assert background.wait_idle(BOUND)
    assert background.enqueue(answer).result(BOUND) == 42


def test_durable_coroutine_without_a_loop(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the journal until a loop can be made."""
    made: list[int] = []
    make = native.new_event_loop

    async def answer() -> int:
        return 42

    def late_loop() -> asyncio.AbstractEventLoop:
        made.append(1)
        if len(made) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return make()

    monkeypatch.setattr(native, "new_event_loop", late_loop)
    item = background.task(durable=True, name="shop.answer")(answer).enqueue()
    assert item.result(BOUND) == 42
    assert len(made) == 3


def test_child_process(make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """The log of a child, and the line about its kill, pass through the hub."""
    site = make_site(
        BACKGROUND_EXECUTORS={"cpu": {"kind": "process", "workers": 1}},
        BACKGROUND_APP="tests.children:create_app",
        BACKGROUND_KILL_AFTER=0.1,
    )
    threads: list[int] = []

    def note_thread(record: logging.LogRecord) -> bool:
        threads.append(threading.get_native_id())
        return True

    def spin() -> None:
        logging.getLogger("shop.mail").error("sent")
        while True:
            pass

    work = add_tasks(site.background)["work"]
    assert work.enqueue(ship(os.getpid)).result(BOUND) != os.getpid()  # the child is there
    work = work.using(timeout=1.0)
    logger = logging.getLogger("shop.mail")
    logger.addFilter(note_thread)
    try:
        item = work.enqueue(ship(spin))
        assert isinstance(item.exception(BOUND), ItemTimeoutError)
    finally:
        logger.removeFilter(note_thread)
    assert threads == [HERE]
    assert "sent" in caplog.text
    assert "in spin" in caplog.text
    site.background.stop(0)


def test_around_item(background: Background) -> None:
    """The code around an item runs on the item's greenlet, and sees how the run ends."""
    seen: list[Any] = []

    @background.around_item
    def around() -> Iterator[None]:
        greenlet = gevent.getcurrent()
        gevent.sleep(0)
        try:
            yield
        except ValueError:
            seen.append("failed")
            raise
        seen.append(gevent.getcurrent() is greenlet)

    assert background.enqueue(int, "7").result(BOUND) == 7
    assert isinstance(background.enqueue(int, "no").exception(BOUND), ValueError)
    assert seen == [True, "failed"]


def test_item_filter(background: Background) -> None:
    """The filter puts the item on the lines of its greenlet."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    handler.addFilter(ItemFilter())
    logger = logging.getLogger("shop.mail")
    logger.addHandler(handler)

    def work() -> None:
        gevent.sleep(0)
        logger.warning("hello")

    items = [background.enqueue(work) for _ in range(3)]
    assert all(item.wait(BOUND) for item in items)
    logger.removeHandler(handler)
    assert {record.__dict__["item_id"] for record in records} == {item.id for item in items}
