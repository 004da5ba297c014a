"""A process of its own: waits for its items when it ends, whatever ends it, and forks start clean."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_background import CancelReason, Status
from flask_background.concurrency import native
from flask_background.errors import ItemInterruptedError
from flask_background.hosts import base, process
from flask_background.hosts.base import Host

from ..helpers import BOUND, STARTS_THREADS_AT_THE_END, Site, our_threads, slack, until
from .scripts import APP, Start, remaining

# The end of the main thread.


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise KeyError('lost')", 1),
    ],
)
def test_script_ends(script: Start, last: str, code: int) -> None:
    """When a script ends, items in flight and queued are done first; its exit code is its own."""
    program = script(
        APP,
        f"""
        background = make(WORKERS=1)
        background.enqueue(work, 0.1, "first")
        background.enqueue(work, 0.1, "second")
        async def coroutine():
            await asyncio.sleep(0.2)
            say("coroutine done")
        background.enqueue(coroutine)
        say("main done")
        {last}
        """,
    )
    assert program.ends() == code, program.said
    for name in ("first", "second", "coroutine"):
        assert program.said.index("main done") < program.said.index(f"{name} done")


def test_script_ends_when_idle(script: Start) -> None:
    """A script whose items have ended ends at once, without a word."""
    program = script(
        APP,
        """
        background = make()
        background.enqueue(work, 0).wait(5)
        assert background.wait_idle(5)
        say("end", time.monotonic())
        """,
    )
    assert program.ends() == 0
    assert time.monotonic() - float(program.said.split()[-1]) < 1.0 + slack()
    assert "Stopping" not in program.said


def test_token_fires_at_the_end(script: Start) -> None:
    """When the script ends the tokens fire and say how long there is; the log says what is waited for."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        background.enqueue(obey)
        """,
    )
    assert program.ends() == 0, program.said
    assert "Stopping: waiting up to 30 s for 1 item; Ctrl-C ends the wait" in program.said
    assert 25 < remaining(program.said) <= 30
    assert "item done" in program.said


def test_callbacks_run_to_their_end(script: Start) -> None:
    """A token's callback that is still at work when the last item has ended is waited for."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)

        def callback():
            time.sleep(0.5)
            say("callback done")

        def leave():
            current_item.token.on_cancel(callback)
            say("item started")
            current_item.token.wait(10)

        background.enqueue(leave)
        """,
    )
    assert program.ends() == 0, program.said
    assert "callback done" in program.said


def test_grace_period_is_over(script: Start) -> None:
    """At the end of the grace period what has not ended is named, and the process ends all the same."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=0.3, WORKERS=1)
        background.task(name="shop.stubborn")(stubborn).enqueue()
        background.task(name="shop.queued")(stubborn).enqueue()
        async def clean_up():
            try:
                await asyncio.sleep(60)
            finally:
                say("coroutine cleaned up")
        background.task(name="shop.coroutine")(clean_up).enqueue()
        time.sleep(0.1)
        """,
    )
    assert program.ends() == 0, program.said
    for name in ("stubborn", "coroutine"):
        assert re.search(rf"Item [0-9a-f]{{24}} \(shop\.{name}\) interrupted, 0\.\d s old", program.said)
    assert "1 item that had not started handed over to the journal" in program.said
    assert "coroutine cleaned up" in program.said
    assert program.said.count("item started") == 1


@STARTS_THREADS_AT_THE_END
def test_items_use_thread_pools_at_the_end(script: Start) -> None:
    """Items that are waited for at the end can still use thread pools, new ones and old ones, and threads."""
    program = script(
        APP,
        """
        import urllib.request  # imports things that register exit hooks, as any app does
        background = make()
        old = concurrent.futures.ThreadPoolExecutor()
        old.submit(int).result()
        def use():
            assert current_item.token.wait(10)
            time.sleep(0.1)
            assert old.submit(lambda: 1).result(5) == 1
            with concurrent.futures.ThreadPoolExecutor() as new:
                assert list(new.map(abs, [-1, -2])) == [1, 2]
            thread = threading.Thread(target=say, args=("thread done",))
            thread.start()
            thread.join(5)
            say("function done")
        async def use_async():
            await current_item.token.wait_async()
            assert await asyncio.to_thread(lambda: 3) == 3
            say("coroutine done")
        background.enqueue(use)
        background.enqueue(use_async)
        """,
    )
    assert program.ends() == 0, program.said
    for name in ("thread", "function", "coroutine"):
        assert f"{name} done" in program.said, program.said


@STARTS_THREADS_AT_THE_END
def test_items_enqueue_at_the_end(script: Start) -> None:
    """Items that are waited for may enqueue more, of both kinds, also for an app that had none before."""
    program = script(
        APP,
        """
        background, other = make(), make()
        async def coroutine():
            await asyncio.sleep(0.05)
            say("coroutine done")
        def first():
            assert current_item.token.wait(10)
            background.enqueue(work, 0.1, "second")
            background.enqueue(coroutine)
            with apps[1].app_context():
                other.enqueue(work, 0.1, "other")
        background.enqueue(first)
        """,
    )
    assert program.ends() == 0, program.said
    for name in ("second", "coroutine", "other"):
        assert f"{name} done" in program.said, program.said


def test_other_threads_enqueue_at_the_end(script: Start) -> None:
    """An item that another thread enqueues when all is over is refused with a typed error, not lost."""
    program = script(
        APP,
        """
        background, other = make(), make()
        background.enqueue(work, 0)
        def late(target):
            try:
                item = target.enqueue(work, 0.2, "late")
            except Exception as error:
                say("refused", type(error).__mro__[1].__name__)
            else:
                say("accepted")
        def thread():
            threading.main_thread().join()
            while not background._state().backend.ledger.phase.value == "stopped":
                time.sleep(0.01)
            late(background)
            late(other)
        threading.Thread(target=thread).start()
        """,
    )
    assert program.ends() == 0, program.said
    accepted, refused = program.said.count("accepted"), program.said.count("refused EnqueueError")
    assert accepted + refused == 2, program.said
    assert program.said.count("late done") == accepted, program.said
    assert refused >= 1


def test_first_item_when_all_is_over(script: Start) -> None:
    """A first item that comes when the interpreter is about to end is done, or refused with a typed error."""
    program = script(
        APP,
        """
        background = make()
        def thread():
            threading.main_thread().join()
            time.sleep(0.1)
            try:
                background.enqueue(work, 0.2, "late")
            except Exception as error:
                say("refused", type(error).__mro__[1].__name__)
            else:
                say("accepted")
        threading.Thread(target=thread).start()
        """,
    )
    assert program.ends() == 0, program.said
    assert "refused EnqueueError" in program.said or "late done" in program.said, program.said


def test_two_apps(script: Start) -> None:
    """All apps of a process are waited for, each for its own grace period."""
    program = script(
        APP,
        """
        one, two = make(GRACE_PERIOD=0.2), make(GRACE_PERIOD=30)
        one.task(name="one.stubborn")(stubborn).enqueue()
        two.enqueue(work, 0.6, "two")
        """,
    )
    assert program.ends() == 0, program.said
    assert "(one.stubborn) interrupted" in program.said
    assert "two done" in program.said


def test_stopped_before_the_end(script: Start) -> None:
    """A script that has stopped by itself is not held up again at its end."""
    program = script(
        APP,
        """
        background = make()
        background.enqueue(stubborn)
        time.sleep(0.1)
        assert len(background.stop(0)) == 1
        say("end", time.monotonic())
        """,
    )
    assert program.ends() == 0, program.said
    assert time.monotonic() - float(program.said.split()[-1]) < 2.0 + slack()


@pytest.mark.parametrize("last", ["", "sys.exit(3)"])
def test_without_the_private_hook(script: Start, last: str) -> None:
    """In a Python that lacks the hook before threads are joined, items are waited for all the same."""
    program = script(
        APP,
        f"""
        import concurrent.futures.thread  # which uses it, too
        del threading._register_atexit
        background = make()
        background.enqueue(work, 0.3)
        async def coroutine():
            await asyncio.sleep(0.2)
            say("coroutine done")
        background.enqueue(coroutine)
        say("main done")
        {last}
        """,
    )
    assert program.ends() == (3 if last else 0), program.said
    for name in ("item", "coroutine"):
        assert program.said.index("main done") < program.said.index(f"{name} done")


# TERM and INT.


def test_term_while_an_item_is_accepted(script: Start) -> None:
    """TERM that comes between an item's acceptance and the start of its thread leaves no item behind."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        starts = threading.Thread.start
        def start(thread):
            signal.raise_signal(signal.SIGTERM)
            starts(thread)
        threading.Thread.start = start
        background.enqueue(work, 0.1)
        idle()
        """,
    )
    assert program.ends() == 128 + signal.SIGTERM, program.said
    assert "item done" in program.said


def test_term_while_an_item_waits_for_room(script: Start) -> None:
    """TERM ends the wait of a caller whose item finds no room yet."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30, WORKERS=1, MAX_QUEUED=1, OVERFLOW="block")
        background.enqueue(obey)
        background.enqueue(work, 0.1, "second")
        background.enqueue(work, 0.1, "third")
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGTERM)
    assert program.ends() == 128 + signal.SIGTERM, program.said
    assert "item told shutdown" in program.said
    assert "second done" in program.said
    assert "third" not in program.said


def test_term_when_the_main_thread_takes_long(script: Start) -> None:
    """The token fires when TERM comes, not when the main thread has finished what it does."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        try:
            background.enqueue(obey)
            idle()
        finally:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                time.sleep(0.01)
            say("main done")
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGTERM)
    assert program.ends() == 128 + signal.SIGTERM, program.said
    assert program.said.index("item told") < program.said.index("main done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("used", [False, True])
def test_signal_when_idle(script: Start, number: int, used: bool) -> None:
    """Without items in flight a process dies of TERM, HUP and INT as ever, also when it has had some."""
    program = script(
        APP,
        f"""
        background = make()
        if {used}:
            background.enqueue(work, 0).wait(5)
            assert background.wait_idle(5)
        say("ready")
        idle()
        """,
    )
    program.wait_for("ready")
    program.send(number)
    assert program.ends() == -number, program.said


def test_int(script: Start) -> None:
    """Ctrl-C with items in flight: a KeyboardInterrupt as ever, and then they are waited for."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        background.enqueue(obey)
        idle()
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGINT)
    assert program.ends() == -signal.SIGINT, program.said
    assert "KeyboardInterrupt" in program.said
    assert "item told shutdown" in program.said
    assert "item done" in program.said


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, None])
def test_int_ends_the_wait(script: Start, first: int | None) -> None:
    """Ctrl-C in the wait ends it, whatever began it; what has not ended is named."""
    program = script(
        APP,
        f"""
        background = make(GRACE_PERIOD=30)
        background.task(name="shop.stubborn")(stubborn).enqueue()
        if {first is not None}:
            idle()
        """,
    )
    program.wait_for("item started")
    if first is not None:
        program.send(first)
    program.wait_for("Stopping")
    began = time.monotonic()
    program.send(signal.SIGINT)
    code = program.ends()
    assert time.monotonic() - began < 3.0 + slack()
    assert code == {None: 0, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: -signal.SIGINT}[first]
    assert re.search(r"Item [0-9a-f]{24} \(shop\.stubborn\) interrupted", program.said), program.said


@pytest.mark.parametrize("first", ["TERM", "INT", "end"])
def test_term_does_not_end_the_wait(script: Start, first: str) -> None:
    """TERM while items are waited for takes nothing from their grace period, also when it is sent again."""
    program = script(
        APP,
        f"""
        background = make(GRACE_PERIOD=30)
        background.enqueue(work, 0.7)
        if {first != "end"}:
            idle()
        """,
    )
    program.wait_for("item started")
    if first != "end":
        program.send(getattr(signal, f"SIG{first}"))
    program.wait_for("Stopping")
    program.send(signal.SIGTERM)
    program.send(signal.SIGTERM)
    program.ends()
    assert "item done" in program.said
    assert "interrupted" not in program.said


def test_own_handlers_stay(script: Start) -> None:
    """A handler that the app has set is left alone."""
    program = script(
        APP,
        """
        def handler(number, frame):
            say("handled")
        signal.signal(signal.SIGTERM, handler)
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        background = make()
        assert signal.getsignal(signal.SIGTERM) is handler
        item = background.enqueue(work, 0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        item.wait(5)
        say("main done")
        """,
    )
    assert program.ends() == 0, program.said
    assert program.said.index("handled") < program.said.index("main done")


def test_made_on_another_thread(script: Start) -> None:
    """An app that is made on another thread works, but cannot hear TERM, and leaves its handler alone."""
    program = script(
        APP,
        """
        made = []
        thread = threading.Thread(target=lambda: made.append(make()))
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        made[0].enqueue(work, 0.1)
        """,
    )
    assert program.ends() == 0, program.said
    assert "item done" in program.said


# Forks.


def test_fork(script: Start) -> None:
    """A forked child runs nothing of its parent's, knows nothing of it, and ends without waiting for it."""
    program = script(
        APP,
        """
        background = make(WORKERS=1)
        items = [background.enqueue(work, 1.5, name) for name in ("first", "second")]
        time.sleep(0.1)
        child = os.fork()
        if child == 0:
            before = time.monotonic()
            assert background.items() == [], background.items()
            assert background.get(items[0].id) is None
            assert sum(background.stats()) == 0
            assert background.wait_idle(1)
            try:
                items[1].result(1)
            except Exception as error:
                say("child:", type(error).__name__, error)
            sys.exit(7)
        before = time.monotonic()
        _, status = os.waitpid(child, 0)
        say("child took", time.monotonic() - before)
        assert os.waitstatus_to_exitcode(status) == 7
        """,
    )
    assert program.ends() == 0, program.said
    for name in ("first", "second"):
        assert program.said.count(f"{name} started") == program.said.count(f"{name} done") == 1
    assert "child: BackgroundError" in program.said
    assert "wait for it there" in program.said
    found = re.search(r"child took ([\d.]+)", program.said)
    assert found
    assert float(found[1]) < 1.5 + slack()


def test_fork_cannot_cancel(script: Start) -> None:
    """A forked child cannot cancel its parent's items, and is not told that it has."""
    program = script(
        APP,
        """
        background = make(WORKERS=1)
        background.enqueue(work, 0.3, "first")
        item = background.enqueue(work, 0, "second")
        child = os.fork()
        if child == 0:
            try:
                cancelled = item.cancel()
            except Exception as error:
                cancelled = None
            os._exit(bool(cancelled))
        assert os.waitpid(child, 0)[1] == 0
        """,
    )
    assert program.ends() == 0, program.said
    assert "second done" in program.said


@STARTS_THREADS_AT_THE_END
def test_fork_in_the_grace_period(script: Start) -> None:
    """An item may fork while Python shuts down: the forked process enqueues, and waits for its items."""
    program = script(
        APP,
        """
        background = make()

        def inside():
            background.enqueue(work, 0.3, "inner")

        def forks():
            assert current_item.token.wait(10)
            time.sleep(0.3)  # Python's own shutdown begins a moment after the token has fired
            child = multiprocessing.get_context("fork").Process(target=inside)
            child.start()
            child.join(20)
            say("child ended with", child.exitcode)

        background.enqueue(forks)
        time.sleep(0.2)
        """,
    )
    assert program.ends() == 0, program.said
    assert "child ended with 0" in program.said
    assert "inner done" in program.said


@pytest.mark.parametrize("waits", [False, True])
def test_fork_of_an_item(script: Start, tmp_path: Path, waits: bool) -> None:
    """A process that an item has forked runs no durable items, but those for which that item waits in it."""
    program = script(
        APP,
        f"""
        background = make(WORKERS=1, JOURNAL={str(tmp_path / "journal")!r})
        parent = os.getpid()

        @background.task(durable=True)
        def where():
            return os.getpid()

        def inside():
            items = [where.enqueue() for _ in range(5)]
            if {waits}:
                assert items[3].result(20) == os.getpid() != parent

        @background.task(durable=True)
        def forks():
            child = multiprocessing.get_context("fork").Process(target=inside)
            child.start()
            child.join(20)
            return child.exitcode

        assert forks.enqueue().result(30) == 0
        assert background.wait_idle(20)
        pids = [item.result(0) for item in background.items(task=where.name)]
        say("elsewhere", len(pids) - pids.count(parent), "of", len(pids))
        """,
    )
    assert program.ends() == 0, program.said
    assert f"elsewhere {int(waits)} of 5" in program.said


@pytest.mark.parametrize("used", [False, True])
def test_fork_has_its_own(script: Start, used: bool) -> None:
    """A forked child enqueues items of its own, which it waits for at its end; the parent too."""
    program = script(
        APP,
        f"""
        background = make()
        if {used}:
            background.enqueue(work, 0.2, "parent")
            time.sleep(0.05)
        child = os.fork()
        background.enqueue(work, 0.2, "parent's own" if child else "child's own")
        if child:
            assert os.waitpid(child, 0)[1] == 0
        """,
    )
    assert program.ends() == 0, program.said
    for name in ["parent's own", "child's own"] + ["parent"] * used:
        assert program.said.count(f"{name} started") == program.said.count(f"{name} done") == 1, program.said


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(script: Start, method: str) -> None:
    """Items can use multiprocessing, and a child of it runs nothing of the parent's."""
    program = script(
        APP,
        f"""
        background = make()

        def child(pipe):
            pipe.send((os.getpid(), len(background.items())))

        def use():
            context = multiprocessing.get_context("{method}")
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs,))
            process.start()
            pid, count = ours.recv()
            process.join(10)
            assert pid != os.getpid() and count == 0
            say("item done", process.exitcode)

        if __name__ == "__main__":
            background.enqueue(work, 0.2, "other")
            item = background.enqueue(use)
            item.result(20)
        """,
    )
    assert program.ends(20.0) == 0, program.said
    assert "item done 0" in program.said
    assert program.said.count("other started") == 1


def test_term_in_a_fork(script: Start) -> None:
    """TERM in a child without items is the child's death, as ever, and leaves the parent alone."""
    program = script(
        APP,
        """
        background = make()
        background.enqueue(work, 0.3)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, b"ready")  # Python loses signals that come while it forks
            idle()
            os._exit(0)
        os.read(ours, 5)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM, status
        """,
    )
    assert program.ends() == 0, program.said
    assert program.said.count("item done") == 1


def test_term_in_a_fork_with_items(script: Start) -> None:
    """TERM in a child with items of its own waits for them, as it does in any process."""
    program = script(
        APP,
        """
        background = make()
        child = os.fork()
        if child == 0:
            background.enqueue(obey)
            idle()
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(child, signal.SIGTERM))
        _, status = os.waitpid(child, 0)
        say("child ended with", os.waitstatus_to_exitcode(status))
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGUSR1)
    assert program.ends() == 0, program.said
    assert "item done" in program.said
    assert f"child ended with {128 + signal.SIGTERM}" in program.said


# The watch, in this process.


class Told(Host):
    """A host that stops when it is told to."""

    told = False

    def is_stopping(self) -> bool:
        return self.told


def watchers() -> set[threading.Thread]:
    """The threads that watch."""
    return {thread for thread in our_threads() if thread.name == "background-watcher"}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, site: Site) -> Iterator[Told]:
    """The host of an app of its own, whose watcher does not stay long."""
    monkeypatch.setattr(base, "_LINGER", 0.05)
    before = watchers()
    host = Told()
    host.add(site.backend.shutdown)
    monkeypatch.setattr(site.backend, "_watcher", host)
    yield host
    site.background.stop(0)
    until(lambda: not watchers() - before)


def test_watch_ends_when_idle(host: Told, site: Site) -> None:
    """The watcher lives while items exist and a little longer; the next item starts another."""
    for _ in range(3):
        before = watchers()
        gate = threading.Event()
        item = site.background.enqueue(gate.wait, BOUND)
        (watcher,) = watchers() - before
        assert host.awake
        watcher.join(0.3)
        assert watcher.is_alive()
        gate.set()
        assert item.wait(BOUND)
        watcher.join(BOUND)
        assert not watcher.is_alive()
        assert not host.awake


def test_watch_is_one(host: Told, site: Site, gate: threading.Event) -> None:
    """However many items there are, one thread watches."""
    before = watchers()
    items = [site.background.enqueue(gate.wait, BOUND) for _ in range(50)]
    assert len(watchers() - before) == 1
    gate.set()
    for item in items:
        assert item.wait(BOUND)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), SystemExit()], ids=repr)
def test_watch_cannot_start(
    host: Told, site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Where the watcher cannot be started, or a signal raises meanwhile, the next item tries again."""
    start, refused = native.start_thread, []

    def start_thread(target: Callable[[], None], name: str, **options: bool) -> None:
        if name == "background-watcher" and not refused:
            refused.append(name)
            raise error
        start(target, name, **options)

    monkeypatch.setattr(native, "start_thread", start_thread)
    before = watchers()
    with suppress(RuntimeError, SystemExit):
        site.background.enqueue(lambda: None)
    site.background.enqueue(gate.wait, BOUND)
    assert len(watchers() - before) == 1
    gate.set()
    assert site.background.wait_idle(2.0)


def test_echo_comes_in_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """HUP that comes with TERM, while TERM is being handled, is not a second stop that ends the wait."""
    host = process.ProcessHost()
    host._arrived = True  # so that the handler does not raise
    pending = [signal.SIGHUP]

    def monotonic() -> float:
        if pending:
            host.hear(pending.pop(), None)
        return time.monotonic()

    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=monotonic))
    host.hear(signal.SIGTERM, None)
    assert not pending
    assert not host._cut


def test_watch_sees_the_stop(host: Told, site: Site, gate: threading.Event) -> None:
    """When the host stops, tokens fire within moments; drain waits for the items."""
    item = site.background.enqueue(gate.wait, BOUND)
    fired = threading.Event()
    item.token.on_cancel(fired.set)
    host.told = True
    assert fired.wait(1.0)
    assert item.token.reason is CancelReason.SHUTDOWN
    gate.set()
    host.drain()
    assert item.status is Status.SUCCEEDED


def test_drain_ends_with_the_grace_period(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    """The wait ends with the grace period, by the watcher or without it."""
    site = make_site(BACKGROUND_GRACE_PERIOD=0.2)
    host = Told()
    host.add(site.backend.shutdown)
    monkeypatch.setattr(site.backend, "_watcher", host)
    item = site.background.enqueue(gate.wait, BOUND)
    until(lambda: item.status is Status.RUNNING)
    began = time.monotonic()
    host.drain()
    assert 0.2 <= time.monotonic() - began < 2.0 + slack()
    assert isinstance(item.exception(0), ItemInterruptedError)
    gate.set()
    assert site.background.wait_idle(BOUND)


def test_drain_of_another_process(host: Told, site: Site, gate: threading.Event) -> None:
    """A host that was inherited by a fork waits for nothing."""
    site.background.enqueue(gate.wait, BOUND)
    host.pid += 1
    began = time.monotonic()
    host.drain()
    assert time.monotonic() - began < 1.0 + slack()
    assert not site.background.wait_idle(0)
    gate.set()


def test_watch_survives_errors(
    host: Told, site: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the watch is logged, and the watch goes on."""
    broken = [True]

    def is_stopping() -> bool:
        if broken:
            raise OSError("no such process")
        return False

    host.is_stopping = is_stopping  # type: ignore[method-assign]
    item = site.background.enqueue(gate.wait, BOUND)
    until(lambda: "The watch over the host failed, and goes on" in caplog.text)
    broken.clear()
    gate.set()
    assert item.wait(BOUND)
    assert not item.token.cancelled
