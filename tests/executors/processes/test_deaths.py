"""ChildProcess processes that die, and what their signals, handlers and forks do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from flask_background import Status, current_item
from flask_background.core.token import CancellationSource
from flask_background.errors import ItemCrashedError, ItemFailedError, ResultLostError
from flask_background.executors.processes import messages
from flask_background.executors.processes.call import Call, Killed
from flask_background.executors.processes.child_log import LogReceiver
from flask_background.executors.processes.child_process import ChildProcess
from flask_background.executors.processes.messages import Setup

from ...children import SharedList
from ...helpers import BOUND, until
from ...integration.servers import alive
from .conftest import CPU, ONE, Shop


@pytest.mark.parametrize(
    ("name", "argument", "how"),
    [
        ("segfault", (), "was ended by SIGSEGV"),
        ("leave", (3,), "ended with exit status 3"),
        ("leave", (0,), "ended with exit status 0"),
        ("die_by", (signal.SIGKILL,), "was ended by SIGKILL (perhaps by the system, for lack of memory)"),
        ("die_by", (signal.SIGABRT,), "was ended by SIGABRT"),
    ],
)
def test_child_dies(make_shop: Callable[..., Shop], name: str, argument: tuple[int, ...], how: str) -> None:
    """The item fails with how its child has ended; another child takes over."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    pid = shop.pid()
    item = shop.tasks[name].enqueue(*map(int, argument))
    error = item.exception(BOUND)
    assert isinstance(error, ItemCrashedError)
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

    assert isinstance(shop.call(work).exception(BOUND), ItemCrashedError)
    until(lambda: not alive(int(path.read_text())))


@pytest.mark.parametrize("garbage", [b"\n", b"a line that was printed by mistake\n", bytes(100_000)])
def test_child_that_writes_into_its_pipe(make_shop: Callable[..., Shop], garbage: bytes) -> None:
    """The item fails at once with what has happened, and the next one has another child."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    pid = shop.pid()

    def work() -> None:
        for number in range(3, 20):
            try:
                if stat.S_ISFIFO(os.fstat(number).st_mode):
                    os.write(number, garbage)
            except OSError:
                pass  # the end that is read from

    error = shop.call(work).exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert f"child process {pid} has written " in str(error)
    assert shop.pid() != pid


def test_result_that_would_run_code(shop: Shop) -> None:
    """Reading a result calls nothing that the child names."""
    path = shop.folder / "ran"

    def work() -> object:
        class Evil:
            def __reduce__(self) -> object:
                return Path.touch, (path,)

        return Evil()

    item = shop.call(work)
    assert isinstance(item.exception(BOUND), ResultLostError)
    assert item.status is Status.SUCCEEDED
    assert not path.exists()


@pytest.mark.parametrize("status", ["queued", "running", "interrupted", "odd"])
def test_impossible_status(any_shop: Shop, status: str) -> None:
    """An item whose child reports a status that is no end has crashed, and the child is replaced."""

    def work() -> None:
        messages.end = lambda outcome: messages.RunEnded(status, None, "", "")

    item = any_shop.call(work)
    error = item.exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert str(error) == f"its child process reported an impossible status for item {item.id}"
    assert item.status is Status.FAILED
    assert item.attempt == 1
    any_shop.pid()


def test_child_that_reports_for_ever() -> None:
    """A flood of progress does not keep an item from being killed in time."""
    item, child = mock.Mock(token=CancellationSource().token), mock.Mock()
    child.receive.side_effect = [messages.ProgressReported(1, None, None)] * 9
    call = Call(child, item, 0, LogReceiver())
    call._end_soon()
    with pytest.raises(Killed, match="was killed 0 s after it was asked to end"):
        call._listen()
    child.kill.assert_called_once()


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
            ChildProcess(Setup("shop:app", 0, None, {}))
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
    """A signal that the terminal or a process manager sends to all processes does not end the child."""
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
    """The output of an item is seen when it has ended: its child may be killed at any moment after that."""
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
    assert isinstance(item.exception(BOUND), (ItemCrashedError, ItemFailedError))
    assert item.attempt == 1
