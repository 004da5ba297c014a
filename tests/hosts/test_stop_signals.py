"""The signals that stop a process: heard where they are due, and by nobody else."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from flask_background.concurrency.stop_signals import interruptible_wait, may_raise, uninterruptible

from ..helpers import BOUND, ROOT, slack, until
from .scripts import APP, Start, remaining

HEARD = [signal.SIGTERM, signal.SIGHUP]


# Plain hosts.


@pytest.mark.parametrize("number", HEARD)
def test_heard(script: Start, number: int) -> None:
    """TERM and HUP with items in flight: the token fires, they are waited for, the exit code says which."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        try:
            background.enqueue(obey)
            idle()
        finally:
            say("main cleaned up")
        """,
    )
    program.wait_for("item started")
    program.send(number)
    assert program.ends() == 128 + number, program.said
    assert "main cleaned up" in program.said
    assert 25 < remaining(program.said) <= 30
    assert "item done" in program.said


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGTERM])
def test_ignored_stays_ignored(script: Start, ignored: int) -> None:
    """A program outlives the signal that it is to outlive (nohup), and hears the other one."""
    program = script(
        APP,
        f"""
        signal.signal({int(ignored)}, signal.SIG_IGN)
        background = make(GRACE_PERIOD=30)
        background.enqueue(obey)
        idle()
        """,
    )
    program.wait_for("item started")
    program.send(ignored)
    time.sleep(0.2)
    assert "item told" not in program.said
    (other,) = set(HEARD) - {ignored}
    program.send(other)
    assert program.ends() == 128 + other, program.said
    assert "item done" in program.said


@pytest.mark.parametrize("first", HEARD)
@pytest.mark.parametrize("second", HEARD)
def test_second_signal_cuts(script: Start, first: int, second: int) -> None:
    """A stop signal that comes when the stop is a second old ends the wait; what has not ended is named."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=60)
        background.task(name="shop.stubborn")(stubborn).enqueue()
        idle()
        """,
    )
    program.wait_for("item started")
    program.send(first)
    program.wait_for("Stopping")
    time.sleep(1.1)
    assert program.process.poll() is None
    began = time.monotonic()
    program.send(second)
    assert program.ends() == 128 + first, program.said
    assert time.monotonic() - began < 3.0 + slack()
    assert re.search(r"Item [0-9a-f]{24} \(shop\.stubborn\) interrupted", program.said), program.said


@pytest.mark.parametrize("echo", HEARD)
def test_echo_is_no_second_signal(script: Start, echo: int) -> None:
    """Signals that come together, as from systemd and a parent, are one stop, also when items have ended."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=60)
        background.enqueue(work, 0.4)
        try:
            idle()
        finally:
            background.wait_idle(5)
            say("ready for the echo")
            time.sleep(0.2)
            say("main cleaned up")
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGTERM)
    program.send(echo)
    program.wait_for("ready for the echo")
    program.send(echo)
    # Of two that come at once, Python calls the handler of the lower number first.
    assert program.ends() - 128 in (echo, signal.SIGTERM), program.said
    assert "main cleaned up" in program.said
    assert "item done" in program.said
    assert "interrupted" not in program.said


def test_threads_that_never_end(script: Start) -> None:
    """After TERM and its items a process ends, though Python would join threads of the app's for ever."""
    program = script(
        APP,
        """
        background = make(GRACE_PERIOD=30)
        threading.Thread(target=idle).start()
        background.enqueue(obey)
        idle()
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGTERM)
    program.wait_for("item done")
    assert program.ends() == 128 + signal.SIGTERM, program.said


def test_threads_that_end(script: Start) -> None:
    """After TERM the app's own threads may end in their time, as ever, and so do hooks."""
    program = script(
        APP,
        """
        import atexit
        atexit.register(say, "hook called")
        background = make(GRACE_PERIOD=30)
        threading.Thread(target=work, args=(1.0, "thread")).start()
        background.enqueue(obey)
        idle()
        """,
    )
    program.wait_for("item started")
    program.send(signal.SIGTERM)
    assert program.ends() == 128 + signal.SIGTERM, program.said
    assert "thread done" in program.said
    assert "hook called" in program.said


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare (util-linux) is not there")
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("number", HEARD)
def test_first_process_of_a_container(tmp_path: Path, number: int, busy: bool) -> None:
    """As pid 1, to which the kernel gives no signal that has no handler, TERM and HUP end the process."""
    path = tmp_path / "script.py"
    path.write_text(
        "\n".join(line[4:] for line in APP.splitlines())
        + f"""
assert os.getpid() == 1
background = make(GRACE_PERIOD=30)
background.enqueue(obey if {busy} else int)
if not {busy}:
    assert background.wait_idle(5)
    say("item started")
idle()
"""
    )
    unshare = ["unshare", "--pid", "--fork", "--kill-child", *(["--map-root-user"] if os.getuid() else [])]
    log = tmp_path / "log"
    with log.open("wb") as output:
        outer = subprocess.Popen(
            [*unshare, sys.executable, str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "item started" in log.read_text() or outer.poll() is not None)
        if "unshare failed" in log.read_text():
            pytest.skip(log.read_text())
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        os.kill(int(children.read_text().split()[0]), number)
        assert outer.wait(BOUND) == 128 + number, log.read_text()
        assert ("item done" in log.read_text()) is busy
    finally:
        outer.kill()
        outer.wait(BOUND)


# Programs that items start.


@pytest.mark.parametrize("executor", ["thread", "asyncio", "cpu"])
@pytest.mark.parametrize("how", ["enqueued", "durable", "delayed", "from an item", "retried"])
def test_program_of_an_item_hears_signals(script: Start, executor: str, how: str) -> None:
    """A program that an item starts ends by TERM, whatever thread has started the item's thread."""
    program = script(
        APP,
        f"""
        import subprocess, tempfile
        executor, how = {executor!r}, {how!r}
        here = dict(kind="process", workers=1)
        app = Flask("shop")
        app.config.update(BACKGROUND_EXECUTORS={{"cpu": here}}, BACKGROUND_JOURNAL=tempfile.mkdtemp(),
                          BACKGROUND_APP="script:app")
        background = Background(app)

        def first_fails():
            if how == "retried" and current_item.attempt == 1:
                raise OSError("try again")

        def function():
            first_fails()
            with subprocess.Popen(["sleep", "60"]) as program:
                time.sleep(0.1)
                program.terminate()
                return program.wait(10)

        async def coroutine():
            first_fails()
            program = await asyncio.create_subprocess_exec("sleep", "60")
            await asyncio.sleep(0.1)
            program.terminate()
            return await asyncio.wait_for(program.wait(), 10)

        task = background.task(
            executor=executor, durable=how in ("durable", "retried"), max_attempts=2, backoff=0.05
        )(coroutine if executor == "asyncio" else function)

        @background.task
        def outer():
            return task.enqueue().id

        if __name__ == "__main__":
            with app.app_context():
                if how == "from an item":
                    item = background.get(outer.enqueue().result(10))
                elif how == "delayed":
                    item = task.using(delay=0.05).enqueue()
                else:
                    item = task.enqueue()
                assert item.result(20) == -signal.SIGTERM, item.result(0)
        """,
    )
    assert program.ends(60.0) == 0, program.said


# Where a signal may raise.


def seen_from(func: Callable[[], object]) -> bool:
    """Whether a signal may raise in what func calls."""
    seen: list[bool] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(may_raise(frame))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        func()
    finally:
        signal.signal(signal.SIGUSR1, before)
    return seen[0]


def interrupt() -> None:
    """A signal comes."""
    signal.raise_signal(signal.SIGUSR1)


@uninterruptible
def delicate(call: Callable[[], object] = interrupt) -> None:
    """Not to be left half done."""
    call()


@interruptible_wait
def patient(call: Callable[[], object] = interrupt) -> None:
    """May take long."""
    call()


class Renamed:
    """Functions that are marked are known whatever their names are, and beneath other decorators."""

    method = staticmethod(delicate)
    other = delicate


@pytest.mark.parametrize(
    ("func", "may"),
    [
        (interrupt, True),
        (delicate, False),
        (lambda: delicate(lambda: interrupt()), False),
        (patient, True),
        (lambda: delicate(patient), True),
        (lambda: patient(delicate), False),
        (lambda: delicate(lambda: patient(delicate)), False),
        (lambda: delicate(lambda: patient(lambda: interrupt())), True),
        (Renamed.method, False),
        (lambda: max([1, 2], key=lambda _: delicate() or 0), False),
    ],
)
def test_may_raise(func: Callable[[], object], may: bool) -> None:
    """The innermost function that is marked decides."""
    assert seen_from(func) is may


def test_may_raise_nowhere_in_particular() -> None:
    """Where nothing is marked, or there is no frame, a signal may raise."""
    assert may_raise(None)
    assert may_raise(sys._getframe())
