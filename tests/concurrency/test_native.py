"""Threads and locks of the operating system, with and without gevent's patches."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator

import pytest

from flask_background.concurrency import native

from ..helpers import BOUND, Script, until


def test_gate_waits() -> None:
    """A gate is closed until it is opened; a wait ends in time."""
    gate = native.Latch()
    began = time.monotonic()
    assert not gate.wait(0.02)
    assert time.monotonic() - began >= 0.02
    assert not gate.wait(0)
    assert not gate.wait(-1)
    gate.open()
    for timeout in (0, -1, BOUND, None, 1e12, math.inf):
        assert gate.wait(timeout)


def test_gate_opens_more_than_once() -> None:
    """Opening an open gate does no harm."""
    gate = native.Latch()
    gate.open()
    gate.open()
    assert gate.wait(0)
    gate.open()
    assert gate.wait(0)


@pytest.mark.parametrize("timeout", [None, BOUND, 1e12, math.inf])
def test_gate_lets_all_pass(timeout: float | None) -> None:
    """Everybody who waits passes."""
    gate = native.Latch()
    passed: list[bool] = []
    waiting = threading.Semaphore(0)

    def wait() -> None:
        waiting.release()
        passed.append(gate.wait(timeout))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=BOUND)
    gate.open()
    for thread in threads:
        thread.join(BOUND)
    assert passed == [True] * 8


def test_start_thread() -> None:
    """A thread is a daemon with the name that it was given."""
    seen: list[threading.Thread] = []
    native.start_thread(lambda: seen.append(threading.current_thread()), "background-test")
    until(lambda: seen)
    assert seen[0].daemon
    assert seen[0].name == "background-test"


def test_event_loop() -> None:
    """The event loop is a new one, and works."""
    loop = native.new_event_loop()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, 42)) == 42
    finally:
        loop.close()


def test_sleep() -> None:
    """A sleep takes its time."""
    began = time.monotonic()
    native.sleep(0.01)
    assert time.monotonic() - began >= 0.01


# In a process of its own, because a patch cannot be taken back. One for all, because gevent starts slowly.

PATCHED = """
    from gevent import monkey
    monkey.patch_all()
    import asyncio, threading, time, traceback
    import gevent
    from flask import Flask
    from flask_background.concurrency import native
    from flask_background import Background, current_item
    app = Flask("shop")
    background = Background(app)
    sleep, get_ident = native.sleep, monkey.get_original("_thread", "get_ident")
    beats = []

    def beat():
        while True:
            beats.append(1)
            gevent.sleep(0.005)

    def beating(wait):
        gevent.sleep(0.02)
        before = len(beats)
        result = wait()
        assert len(beats) - before > 5, len(beats) - before
        return result

    def function():
        item = background.enqueue(lambda: (sleep(0.3), get_ident())[1])
        assert beating(lambda: item.result(10)) != get_ident()

    def coroutine():
        async def work():
            await asyncio.sleep(0.02)
            sleep(0.3)
            return get_ident()
        item = background.enqueue(work)
        assert beating(lambda: item.result(10)) != get_ident()

    def bounded_wait():
        item = background.enqueue(sleep, 0.9)
        assert not beating(lambda: item.wait(0.3))
        assert item.wait(10)

    def wait_for_all():
        for _ in range(5):
            background.enqueue(sleep, 0.3)
        assert beating(lambda: background.wait_idle(10))

    def token():
        item = background.enqueue(lambda: current_item.token.wait(10))
        gevent.sleep(0.02)
        assert item.cancel()
        assert item.result(10) is True

    def timeout():
        async def work():
            await asyncio.sleep(10)
        error = background.task(timeout=0.05)(work).enqueue().exception(10)
        assert type(error).__name__ == "ItemTimeoutError", error

    def greenlets_enqueue():
        ran = []
        def enqueue(number):
            for _ in range(50):
                background.enqueue(ran.append, number)
                gevent.sleep(0)
        gevent.joinall([gevent.spawn(enqueue, number) for number in range(10)], raise_error=True)
        assert background.wait_idle(10)
        assert sorted(ran) == sorted(list(range(10)) * 50)

    def stop():
        item = background.enqueue(lambda: (sleep(0.3), current_item.token.reason.value)[1])
        gevent.sleep(0.02)
        assert beating(lambda: background.stop(10)) == []
        assert item.result(0) == "shutdown"

    gevent.spawn(beat)
    for check in (function, coroutine, bounded_wait, wait_for_all, token, timeout, greenlets_enqueue, stop):
        try:
            check()
        except BaseException:
            traceback.print_exc()
        else:
            print("fine:", check.__name__, flush=True)
"""


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    """What happens under gevent's patches."""
    program = Script(tmp_path_factory.mktemp("gevent"), PATCHED)
    yield program
    program.kill()


@pytest.mark.process
@pytest.mark.parametrize(
    "check",
    [
        "function",
        "coroutine",
        "bounded_wait",
        "wait_for_all",
        "token",
        "timeout",
        "greenlets_enqueue",
        "stop",
    ],
)
def test_gevent(patched: Script, check: str) -> None:
    """Under gevent's patches items live on real threads, and whoever waits for them holds up no greenlet."""
    assert patched.ends(30.0) == 0, patched.said
    assert f"fine: {check}\n" in patched.said, patched.said
