"""The watch: whoever began is called time and again until the end, all by one thread, which goes then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from flask_background.celery.worker import supervisor as watching
from flask_background.celery.worker.supervisor import Watch

from ..helpers import BOUND, our_threads, until


class Look:
    """Knows when it was called, and by whom."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.threads: set[int] = set()

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        self.threads.add(threading.get_ident())


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so often, for a test."""
    monkeypatch.setattr(watching, "_EVERY", 0.05)


def has_thread() -> bool:
    """Whether any thread looks."""
    return any(thread.name == "background-timers" for thread in our_threads())


def test_time_and_again() -> None:
    """Each is called within half a second, and every half second then, by one thread which is another one."""
    watch = Watch()
    looks = [Look() for _ in range(3)]
    began = time.monotonic()
    for look in looks:
        watch.begin(look)
    until(lambda: all(len(look.times) >= 3 for look in looks))
    for look in looks:
        watch.end(look)
        assert look.times[0] - began < 0.5 + BOUND
        assert look.times[1] - look.times[0] >= 0.4
        assert look.threads == looks[0].threads != {threading.get_ident()}
    until(lambda: not has_thread())


def test_not_after_the_end(quickly: None) -> None:
    """What has ended is called no more, while others are."""
    watch, ended, goes_on = Watch(), Look(), Look()
    watch.begin(ended)
    watch.begin(goes_on)
    until(lambda: ended.times)
    watch.end(ended)
    calls = len(ended.times) + 1  # one may have begun
    count = len(goes_on.times)
    until(lambda: len(goes_on.times) >= count + 5)
    watch.end(goes_on)
    assert len(ended.times) <= calls


def test_ended_in_the_round() -> None:
    """What ends while another one is being called, is not called any more in that round."""
    watch, ended = Watch(), Look()

    def end_the_other() -> None:
        watch.end(ended)
        watch.end(end_the_other)

    watch.begin(end_the_other)
    watch.begin(ended)
    until(lambda: not watch._looks)
    until(lambda: not has_thread())
    assert not ended.times


def test_short_runs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many begin and end between two rounds, there is one alarm for all."""
    watch = Watch()
    alarms: list[float] = []
    monkeypatch.setattr(watch._alarms, "set", lambda seconds, callback: alarms.append(seconds))
    look = Look()
    for _ in range(100):
        watch.begin(look)
        watch.end(look)
    assert alarms == [0.5]
    assert not look.times


def test_begins_anew(quickly: None) -> None:
    """After a while without anybody the next one is called again."""
    watch = Watch()
    for _ in range(2):
        look = Look()
        watch.begin(look)
        until(lambda: look.times)  # noqa: B023
        watch.end(look)
        until(lambda: not has_thread())


def test_from_many_threads(quickly: None) -> None:
    """All that go on are called, and there is one round at a time, whoever begins and ends meanwhile."""
    watch, goes_on = Watch(), Look()
    watch.begin(goes_on)

    def come_and_go() -> None:
        for _ in range(200):
            look = Look()
            watch.begin(look)
            watch.end(look)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    run: Callable[[threading.Thread], None]
    for run in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            run(thread)
    count = len(goes_on.times)
    until(lambda: len(goes_on.times) >= count + 5)
    watch.end(goes_on)
    assert all(
        later - sooner >= 0.04 for sooner, later in zip(goes_on.times, goes_on.times[1:], strict=False)
    )
    assert watch._looks == []
