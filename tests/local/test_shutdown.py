"""The stop of one app: tokens first, then the record, then the end of the grace period."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flask_background import Background, CancelReason, Status, WorkItem, current_item
from flask_background.concurrency import native
from flask_background.core.backend import Phase
from flask_background.errors import ItemInterruptedError, Stopping

from ..helpers import BOUND, Site, lines, slack, until


@pytest.fixture
def one(make_site: Callable[..., Site]) -> Site:
    """An app that runs one item at a time."""
    return make_site(BACKGROUND_WORKERS=1)


def running(background: Background, gate: threading.Event, result: Any = None) -> WorkItem[Any]:
    """An item that runs until the gate opens, whatever its token says."""
    started = threading.Event()

    def hold() -> Any:
        started.set()
        assert gate.wait(BOUND)
        return result

    item = background.task(name="shop.hold")(hold).enqueue()
    assert started.wait(BOUND)
    return item


def test_tokens_come_first(one: Site, gate: threading.Event) -> None:
    """When the stop begins, every item's token fires, queued ones too, and says how much time is left."""
    first = running(one.background, gate)
    queued = one.background.enqueue(lambda: None)
    asked = one.background.enqueue(lambda: None)
    token = asked.token
    fired = threading.Event()
    token.on_cancel(fired.set)
    one.backend.shutdown.begin(time.monotonic(), grace=60)
    for item in (first, queued, asked):
        assert item.token.reason is CancelReason.SHUTDOWN
        assert item.token.remaining is not None
        assert 50 < item.token.remaining <= 60
    assert asked.token is token
    assert fired.wait(BOUND)
    assert one.backend.ledger.phase is Phase.STOPPING
    gate.set()
    assert one.background.wait_idle(BOUND)
    assert [item.status for item in (first, queued, asked)] == [Status.SUCCEEDED] * 3


def test_grace_from_the_settings(make_site: Callable[..., Site], gate: threading.Event) -> None:
    """By default the app's grace period counts, from the beginning of the stop."""
    site = make_site(BACKGROUND_GRACE_PERIOD=30)
    item = running(site.background, gate)
    site.backend.shutdown.begin(time.monotonic() - 10)
    assert item.token.remaining is not None
    assert 10 < item.token.remaining <= 20


def test_host_allows_less(site: Site, gate: threading.Event) -> None:
    """Tokens and the log name the earlier time at which the host may kill."""
    item = running(site.background, gate)
    site.backend.shutdown.begin(time.monotonic(), grace=90, allowance=5)
    assert item.token.remaining is not None
    assert 4 < item.token.remaining <= 5


def test_begins_once(site: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """The stop begins once: its line is logged once, and a later beginning gives no more time."""
    item = running(site.background, gate)
    for grace in (5, 50):
        site.backend.shutdown.begin(time.monotonic(), grace=grace, how_to_cut="; Ctrl-C ends the wait")
    assert lines(caplog) == ["Stopping: waiting up to 5 s for 1 item; Ctrl-C ends the wait"]
    assert item.token.remaining is not None
    assert item.token.remaining <= 5


def test_token_asked_for_later(site: Site, gate: threading.Event) -> None:
    """An item that looks at its token only after the stop began, or is enqueued then, sees it fired."""
    opened = threading.Event()

    def look() -> Any:
        assert opened.wait(BOUND)
        token = current_item.token
        return token.reason, token.remaining

    item = site.background.enqueue(look)
    site.backend.shutdown.begin(time.monotonic(), grace=60)
    opened.set()
    late = site.background.enqueue(look)
    for each in (item, late):
        reason, remaining = each.result(BOUND)
        assert reason is CancelReason.SHUTDOWN
        assert 50 < remaining <= 60


@pytest.mark.parametrize("coroutine", [False, True])
def test_accepts_while_stopping(background: Background, coroutine: bool) -> None:
    """Items, and requests that are being finished, may enqueue until all is drained; the stop waits."""
    follow_ups: list[WorkItem[int]] = []

    async def follow_up_async() -> int:
        await asyncio.sleep(0.01)
        return 42

    def first() -> None:
        current_item.token.wait(BOUND)
        follow_ups.append(background.enqueue(follow_up_async if coroutine else lambda: 42))

    background.enqueue(first)
    assert background.stop(BOUND) == []
    assert follow_ups[0].result(0) == 42
    with pytest.raises(Stopping):
        background.enqueue(lambda: None)


def test_record(site: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """Unfinished items are named once before the host could kill; an item that then ends corrects that."""
    first, second = running(site.background, gate, 42), running(site.background, gate, 43)
    clock = site.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0.02)
    clock.tick()
    until(lambda: clock.tick() or first.status is Status.INTERRUPTED)
    clock.tick()
    for item in (first, second):
        assert item.status is Status.INTERRUPTED
        assert item.wait(0)
        assert isinstance(item.exception(0), ItemInterruptedError)
        (line,) = [line for line in lines(caplog, logging.ERROR) if item.id in line]
        assert "interrupted" in line
        assert "s old" in line
    assert site.background.stats().running == 2
    assert site.backend.ledger.phase is Phase.STOPPING
    late = site.background.enqueue(lambda: 44)
    assert late.result(BOUND) == 44
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert (first.result(0), second.result(0)) == (42, 43)
    stats = site.background.stats()
    assert (stats.succeeded, stats.interrupted) == (3, 0)
    assert f"Item {first.id} (shop.hold) succeeded after all; it was reported as interrupted" in lines(
        caplog, logging.WARNING
    )


def test_record_of_queued(one: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """A waiting item that is on record as interrupted still runs if the process lives on, or is cancelled."""
    running(one.background, gate)
    queued, cancelled = (one.background.enqueue(lambda: 42) for _ in range(2))
    clock = one.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    clock.tick()
    assert queued.status is cancelled.status is Status.INTERRUPTED
    assert cancelled.cancel()
    assert cancelled.status is Status.CANCELLED
    gate.set()
    assert one.background.wait_idle(BOUND)
    assert queued.status is Status.SUCCEEDED
    assert queued.result(0) == 42
    corrected = [line for line in lines(caplog, logging.WARNING) if "after all" in line]
    assert len([line for line in corrected if queued.id in line]) == 1
    assert len([line for line in corrected if cancelled.id in line]) == 1


def test_tick_before_anything_is_due(site: Site, gate: threading.Event) -> None:
    """A tick takes only the step that is due."""
    item = running(site.background, gate)
    clock = site.backend.shutdown
    clock.tick()
    assert site.backend.ledger.phase is Phase.RUNNING
    clock.begin(time.monotonic(), grace=60)
    clock.tick()
    assert item.status is Status.RUNNING
    assert not clock.close_if_idle()
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert clock.close_if_idle()
    assert clock.close_if_idle()


def test_time_is_up(one: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the grace period the unfinished items are named once, and no item starts any more."""
    first = running(one.background, gate)
    ran: list[int] = []
    queued = one.background.enqueue(ran.append, 1)
    clock = one.backend.shutdown
    clock.begin(time.monotonic(), grace=0.02)
    until(lambda: clock.tick() or one.backend.ledger.phase is Phase.STOPPED)
    assert clock.time_is_up() == [first]
    assert len(lines(caplog, logging.ERROR)) == 2
    gate.set()
    assert one.background.wait_idle(BOUND)
    assert ran == []
    assert queued.status is Status.INTERRUPTED
    assert clock.time_is_up() == []


def test_recorded_then_up(one: Site, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """Items that are on record are not named again when the time is up, but later ones are."""
    first = running(one.background, gate)
    clock = one.backend.shutdown
    clock.begin(time.monotonic(), grace=60, allowance=0)
    clock.tick()
    late = one.background.enqueue(lambda: None)
    assert clock.time_is_up() == [first, late]
    assert [line.split()[1] for line in lines(caplog, logging.ERROR)] == [first.id, late.id]


def test_callbacks_do_not_hold_the_stop_up(site: Site, gate: threading.Event) -> None:
    """Token callbacks are foreign code: one that blocks does not delay the stop."""
    item = running(site.background, gate)
    called = threading.Event()
    item.token.on_cancel(called.set)
    item.token.on_cancel(lambda: gate.wait(BOUND))
    began = time.monotonic()
    assert site.background.stop(0.05) == [item]
    assert time.monotonic() - began < BOUND / 2
    assert called.wait(BOUND)


def test_callbacks_without_a_thread(
    site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks are called even if no thread can be started, as in the shutdown of some Pythons."""
    item = running(site.background, gate)
    called = threading.Event()
    item.token.on_cancel(called.set)

    def start_thread(target: Callable[[], None], name: str, **options: bool) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(native, "start_thread", start_thread)
    assert site.background.stop(0.02) == [item]
    assert called.wait(2.0)


@pytest.mark.parametrize("how", ["stop", "cancel", "timeout"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_callback_fails(
    site: Site, gate: threading.Event, how: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A callback's error is logged; the other callbacks are called, and later timeouts still come."""
    called, registered = threading.Event(), threading.Event()

    def fail() -> None:
        raise error("callback")

    def hold() -> None:
        current_item.token.on_cancel(fail)
        current_item.token.on_cancel(called.set)
        registered.set()
        gate.wait(BOUND)

    item = site.background.task(timeout=0.05 if how == "timeout" else None)(hold).enqueue()
    until(registered.is_set)
    if how == "stop":
        assert site.background.stop(0) == [item]
    elif how == "cancel":
        assert item.cancel()
    assert called.wait(2.0)
    until(lambda: "callback failed" in caplog.text)
    (record,) = [record for record in caplog.records if "callback failed" in record.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], error)
    if how == "timeout":
        again = site.background.task(timeout=0.02)(lambda: current_item.token.wait(2.0)).enqueue()
        assert again.result(BOUND)


def test_stop_when_idle(site: Site) -> None:
    """A stop without items is over at once, and then nothing is accepted."""
    began = time.monotonic()
    assert site.background.stop() == []
    assert time.monotonic() - began < 1 + slack()
    with pytest.raises(Stopping, match=r"^builtins\.print was not enqueued: this process is stopping"):
        site.background.enqueue(print)
    with pytest.raises(Stopping, match=r"^builtins\.print was not enqueued: this process is stopping"):
        site.background.task(print).enqueue()


def test_stop_answers_views(site: Site) -> None:
    """A view that enqueues after the stop answers 503 with Retry-After, and nothing is lost silently."""
    task = site.background.task(name="shop.work")(lambda: None)
    site.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
    site.background.stop(0)
    response = site.client.get("/")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "shop.work" not in response.text


def test_stop_ends_as_soon_as_idle(site: Site, gate: threading.Event) -> None:
    """The stop takes as long as the items do, not the whole grace period."""
    running(site.background, gate)
    threading.Timer(0.05, gate.set).start()
    began = time.monotonic()
    assert site.background.stop(BOUND) == []
    assert time.monotonic() - began < BOUND / 2


def test_stop_twice(site: Site, gate: threading.Event) -> None:
    """A second stop returns the items that have still not ended."""
    item = running(site.background, gate)
    assert site.background.stop(0) == [item]
    assert site.background.stop(0) == [item]
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert site.background.stop(0) == []


def test_stop_again_with_less_time(site: Site, gate: threading.Event) -> None:
    """A second stop can cut the first one short: the earlier end counts."""
    item = running(site.background, gate)
    first: list[Any] = []
    stopper = threading.Thread(target=lambda: first.append(site.background.stop(BOUND / 2)))
    stopper.start()
    until(lambda: item.token.cancelled)
    began = time.monotonic()
    assert site.background.stop(0) == [item]
    assert time.monotonic() - began < BOUND / 4
    gate.set()
    stopper.join(BOUND)
    assert not stopper.is_alive()
    assert len(first) == 1


def test_stops_at_once(site: Site, gate: threading.Event) -> None:
    """Several threads that stop the app at once all return when the stop is over."""
    running(site.background, gate)
    returned: list[Any] = []
    stoppers = [
        threading.Thread(target=lambda: returned.append(site.background.stop(BOUND))) for _ in range(4)
    ]
    for stopper in stoppers:
        stopper.start()
    gate.set()
    for stopper in stoppers:
        stopper.join(BOUND)
    assert returned == [[]] * 4


def test_stop_in_an_item(background: Background) -> None:
    """An item that stops its own app is returned as unfinished, and goes on."""
    item = background.enqueue(lambda: [item.id for item in background.stop(0.02)])
    assert item.wait(BOUND)
    until(lambda: item.status is Status.SUCCEEDED)
    assert item.result(0) == [item.id]


def test_other_apps_go_on(make_site: Callable[..., Site]) -> None:
    """The stop of one app leaves other apps alone."""
    one, two = make_site(), make_site()
    one.background.stop(0)
    assert two.background.enqueue(lambda: 42).result(BOUND) == 42
