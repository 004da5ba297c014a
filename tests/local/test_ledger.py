"""The ledger: items in flight, items that have ended, and the phase of the stop. No step loses an item."""

from __future__ import annotations

import itertools
import math
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from flask_background import Status, WorkItem
from flask_background.core.backend import Phase, Stats
from flask_background.core.status import Attempt, Outcome
from flask_background.errors import ItemInterruptedError
from flask_background.executors.base import Executor
from flask_background.local import ended as ended_module
from flask_background.local import ledger as module
from flask_background.local.ledger import Ledger

from ..helpers import BOUND, CI, Site, lines, make_item


class Nowhere(Executor):
    """An executor that runs nothing."""

    def put(self, item: WorkItem[Any]) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


SUCCEEDED: Outcome = (Status.SUCCEEDED, 42, None)
FAILED: Outcome = (Status.FAILED, None, KeyError("lost"))
CANCELLED: Outcome = (Status.CANCELLED, None, KeyError("cancelled"))
INTERRUPTED: Outcome = (Status.INTERRUPTED, None, ItemInterruptedError("interrupted"))


class Books:
    """The ledger of an app with one executor."""

    def __init__(self) -> None:
        self.executor = Nowhere("thread", 2)
        self.ledger = Ledger([self.executor])

    def admit(self, item: WorkItem[Any], limit: float = math.inf) -> bool:
        """Enter an item."""
        return self.ledger.admit(item, self.executor, limit)

    def claim(self, item: WorkItem[Any]) -> bool:
        """Start the item."""
        return self.ledger.claim(item, self.executor, Attempt(1.0))

    def settle(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """End the item's run."""
        assert item._attempt is not None
        self.ledger.settle(item, item._attempt, outcome)

    def withdraw(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """Withdraw the item."""
        return self.ledger.withdraw(item, self.executor, outcome)

    def record(self, item: WorkItem[Any], text: str = "time is up") -> bool:
        """Put the item on record as interrupted."""
        return self.ledger.record(item, ItemInterruptedError(text))

    def remove(self, item: WorkItem[Any]) -> None:
        """Remove the item from the book that has it."""
        self.ledger.remove(
            item, self.executor.running if item.id in self.executor.running else self.ledger.leaving
        )


@pytest.fixture
def books() -> Books:
    """A new ledger with one executor."""
    return Books()


def test_admit(books: Books) -> None:
    """Items are entered up to the limit, and not above."""
    items = [make_item() for _ in range(4)]
    assert [books.admit(item, 3) for item in items] == [True, True, True, False]
    assert books.ledger.unfinished() == books.ledger.all() == items[:3]
    assert books.ledger.stats() == Stats(3, 0, 0, 0, 0, 0)
    assert books.ledger.get(items[3].id) is None
    assert books.admit(items[3])
    assert books.ledger.get(items[3].id) is items[3]
    assert books.ledger.get("nobody") is None


def test_withdrawn_while_claimed(books: Books) -> None:
    """A wait for idleness ends, if an item is withdrawn in the moment in which a thread claims it."""
    item = make_item()
    assert books.admit(item)

    class Meddler(dict[str, WorkItem[Any]]):
        def __setitem__(self, key: str, value: WorkItem[Any]) -> None:
            super().__setitem__(key, value)
            assert books.withdraw(item, CANCELLED)
            books.ledger.remove(item, books.ledger.leaving)

    books.executor.running = Meddler()
    with books.ledger.idle_latch() as latch:
        assert not books.claim(item)
        assert books.ledger.is_idle()
        assert latch.wait(0)


def test_running_items_count(books: Books) -> None:
    """The limit counts items that run as well as those that wait."""
    items = [make_item() for _ in range(3)]
    assert books.admit(items[0], 2)
    assert books.claim(items[0])
    assert books.admit(items[1], 2)
    assert not books.admit(items[2], 2)


@pytest.fixture
def waits() -> Iterator[ExitStack]:
    """Waits that last as long as the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("how", ["withdraw", "run"])
def test_room_latch(books: Books, waits: ExitStack, how: str) -> None:
    """A latch for a caller without room opens when an item has gone, or at the end of the stop."""
    first, second = make_item(), make_item()
    assert books.admit(first, 1)
    gates = [waits.enter_context(books.ledger.room_latch()) for _ in range(2)]
    assert not books.admit(second, 1)
    if how == "run":
        assert books.claim(first)
        books.settle(first, SUCCEEDED)
    else:
        assert books.withdraw(first, CANCELLED)
    assert not any(gate.wait(0) for gate in gates)
    books.remove(first)
    assert all(gate.wait(0) for gate in gates)
    assert books.admit(second, 1)
    at_the_end = waits.enter_context(books.ledger.room_latch())
    assert books.ledger.close()
    assert at_the_end.wait(0)


def test_claim(books: Books) -> None:
    """The thread that has taken an item from its queue claims it, which begins its run."""
    item = make_item()
    books.admit(item)
    assert books.claim(item)
    assert item.status is Status.RUNNING
    assert item.attempt == 1
    assert item.started_at is not None
    assert books.ledger.stats() == Stats(0, 1, 0, 0, 0, 0)
    assert books.ledger.unfinished() == [item]


OUTCOMES = [SUCCEEDED, FAILED, CANCELLED, INTERRUPTED]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=[outcome[0] for outcome in OUTCOMES])
def test_settle(books: Books, outcome: Outcome) -> None:
    """A running item gets its outcome; it stays known until others have ended after it."""
    item = make_item()
    books.admit(item)
    books.claim(item)
    books.settle(item, outcome)
    assert item._attempt is not None
    assert (item.status, item._attempt.value, item._attempt.error) == outcome
    assert item.finished_at is not None
    assert not books.withdraw(item, CANCELLED)
    books.remove(item)
    assert books.ledger.unfinished() == []
    assert books.ledger.is_idle()
    assert books.ledger.get(item.id) is item
    assert books.ledger.all() == [item]
    assert books.ledger.stats()._asdict() == dict.fromkeys(Stats._fields, 0) | {str(outcome[0]): 1}


def test_withdraw(books: Books) -> None:
    """A waiting item can be withdrawn, once; then it is not claimed. A running one cannot."""
    waiting, running = make_item(), make_item()
    books.admit(waiting)
    books.admit(running)
    assert books.claim(running)
    assert not books.withdraw(running, CANCELLED)
    assert books.withdraw(waiting, CANCELLED)
    assert not books.withdraw(waiting, CANCELLED)
    assert not books.claim(waiting)
    assert waiting.status is Status.CANCELLED
    assert waiting.attempt == 0
    assert waiting.started_at is None
    # It is in flight until all were told of its end.
    assert books.ledger.get(waiting.id) is waiting
    books.settle(running, SUCCEEDED)
    books.remove(running)
    assert not books.ledger.is_idle()
    books.remove(waiting)
    assert books.ledger.is_idle()


def test_record_and_correct(books: Books) -> None:
    """An item that is on record as interrupted goes on; its own end corrects the record and the counts."""
    running, waiting, withdrawn = (make_item() for _ in range(3))
    for item in (running, waiting, withdrawn):
        books.admit(item)
    books.claim(running)
    for item in (running, waiting, withdrawn):
        assert books.record(item)
        assert not books.record(item, "again")
        assert item.status is Status.INTERRUPTED
        assert item._attempt is not None
        assert str(item._attempt.error) == "time is up"
    assert len(books.ledger.unfinished()) == 3
    books.settle(running, SUCCEEDED)
    assert books.claim(waiting)
    assert waiting.status is Status.RUNNING
    assert waiting.finished_at is None
    books.settle(waiting, FAILED)
    assert books.withdraw(withdrawn, CANCELLED)
    for item in (running, waiting, withdrawn):
        assert not books.record(item)
        books.remove(item)
    assert books.ledger.stats() == Stats(0, 0, succeeded=1, failed=1, cancelled=1, interrupted=0)


def test_phases(books: Books) -> None:
    """Running, stopping, stopped: each once, never back. Stopping still accepts and starts items."""
    ledger = books.ledger
    assert ledger.phase is Phase.RUNNING
    assert ledger.begin_stop()
    assert not ledger.begin_stop()
    assert ledger.phase is Phase.STOPPING
    item, waiting, late = make_item(), make_item(), make_item()
    assert books.admit(item)
    assert books.claim(item)
    assert books.admit(waiting)
    assert not ledger.close(if_idle=True)
    assert ledger.phase is Phase.STOPPING
    assert ledger.close()
    assert not ledger.close()
    assert not ledger.close(if_idle=True)
    assert not ledger.begin_stop()
    assert ledger.phase is Phase.STOPPED
    assert not books.claim(waiting)
    assert not books.admit(late)
    assert ledger.get(late.id) is None
    assert ledger.unfinished() == [item, waiting]


def test_close_if_idle(books: Books) -> None:
    """A ledger without items in flight can be closed at once, without stopping first."""
    assert books.ledger.close(if_idle=True)
    assert books.ledger.phase is Phase.STOPPED


def test_idle_latch(books: Books, waits: ExitStack) -> None:
    """The idle latch is open while no item is in flight, and opens for all when the last item has gone."""
    assert waits.enter_context(books.ledger.idle_latch()).wait(0)
    items = [make_item() for _ in range(2)]
    for item in items:
        books.admit(item)
    gates = [waits.enter_context(books.ledger.idle_latch()) for _ in range(2)]
    for item in items:
        assert not any(gate.wait(0) for gate in gates)
        books.withdraw(item, CANCELLED)
        assert not any(gate.wait(0) for gate in gates)
        books.remove(item)
    assert all(gate.wait(0) for gate in gates)


def test_waits_leave_nothing_behind(books: Books) -> None:
    """Waits that end by themselves, in any way and order, leave nothing in memory."""
    books.admit(make_item())
    ledger = books.ledger
    for _ in range(100):
        with ledger.idle_latch() as idle, ledger.room_latch() as room, ledger.idle_latch() as other:
            assert not idle.wait(0)
            assert not room.wait(0)
            assert not other.wait(0)
        with suppress(KeyError), ledger.idle_latch(), ledger.room_latch():
            raise KeyError
    assert ledger._idle_latches == ledger._room_latches == []


def test_keeps_the_last(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number of items that ended last can be found; all are counted."""
    assert module.KEPT == 1_000
    monkeypatch.setattr(module, "KEPT", 10)
    items = [make_item() for _ in range(55)]
    for item in items:
        books.admit(item)
        books.claim(item)
        books.settle(item, SUCCEEDED)
        books.remove(item)
        kept = books.ledger.all()
        assert kept == items[: items.index(item) + 1][-len(kept) :]
        assert len(kept) <= 20
        assert len(kept) >= min(10, items.index(item) + 1)
    waiting = make_item()
    books.admit(waiting)
    kept = books.ledger.all()
    assert kept[-1] is waiting
    for item in items:
        assert books.ledger.get(item.id) is (item if item in kept else None)
    assert books.ledger.stats() == Stats(1, 0, 55, 0, 0, 0)


def test_record_of_what_has_ended(books: Books) -> None:
    """An item that has ended is not put on record as interrupted, so only its own end is reported."""
    ended, going_on = make_item(), make_item()
    for item in (ended, going_on):
        books.admit(item)
        books.claim(item)
    books.settle(ended, INTERRUPTED)
    assert not books.record(ended)
    assert books.record(going_on)
    assert not books.record(going_on)
    assert books.ledger.recorded == {going_on.id}


def test_record_is_made_once(books: Books) -> None:
    """An item that starts after it was put on record is not put on record again."""
    item = make_item()
    books.admit(item)
    assert books.record(item)
    assert books.claim(item)
    assert item.status is Status.RUNNING
    assert not books.record(item)


def end_with(books: Books, value: Any, error: BaseException | None = None) -> WorkItem[Any]:
    """Run an item that ends with this value."""
    item = make_item()
    books.admit(item)
    books.claim(item)
    books.settle(item, (Status.SUCCEEDED if error is None else Status.FAILED, value, error))
    books.remove(item)
    return item


@pytest.mark.parametrize("kind", ["text", "list", "error"])
def test_results_are_bounded(books: Books, kind: str) -> None:
    """Large results are kept up to a number of bytes; a handle in use keeps its own."""
    size, count = ended_module.KEPT_BYTES // 8, 64

    def end(number: int) -> WorkItem[Any]:
        text = chr(65 + number % 26) * size
        if kind == "error":
            return end_with(books, None, ValueError(text))
        return end_with(books, [text] if kind == "list" else text)

    held = end(0)
    for number in range(1, count):
        end(number)
    kept = books.ledger.all()
    assert 8 <= len(kept) <= 17
    assert books.ledger.get(held.id) is None
    assert held.status.is_final
    value = held._attempt
    assert value is not None
    assert value.value or value.error
    stats = books.ledger.stats()
    assert stats.succeeded + stats.failed == count


def test_results_are_let_go_by_age(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that ended long ago is forgotten when items are looked at."""
    now = 0.0
    monkeypatch.setattr(ended_module, "monotonic", lambda: now)
    books.ledger = module.Ledger([books.executor])
    old = end_with(books, "old")
    now = ended_module.KEPT_SECONDS - 1
    assert books.ledger.get(old.id) is old
    now += 2
    books.ledger.let_old_go()
    young = end_with(books, "young")
    now += ended_module.KEPT_SECONDS - 1
    assert books.ledger.get(young.id) is young
    now += 2
    assert books.ledger.get(old.id) is None
    last = end_with(books, "last")
    now += 2 * ended_module.KEPT_SECONDS
    assert books.ledger.all() == []
    assert books.ledger.get(last.id) is None
    assert books.ledger.stats() == Stats(0, 0, 3, 0, 0, 0)


def test_memory_of_results_is_let_go_by_age(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """No result of an item that ended long ago takes up memory, though nobody looks at items."""
    now = 0.0
    monkeypatch.setattr(ended_module, "monotonic", lambda: now)
    books.ledger = module.Ledger([books.executor])
    result = {"old"}
    old = weakref.ref(result)
    end_with(books, result)
    del result
    for _ in range(2):
        assert old() is not None
        now += ended_module.KEPT_SECONDS + 1
        books.ledger.let_old_go()
    assert old() is None


# Several threads.


def together(*acts: Callable[[], object]) -> None:
    """Do all of them at once, each on a thread, and fail if one fails or hangs."""
    barrier = threading.Barrier(len(acts))
    errors: list[BaseException] = []

    def run(act: Callable[[], object]) -> None:
        try:
            barrier.wait(BOUND)
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.usefixtures("hasty")
def test_one_of_many_gets_it(books: Books) -> None:
    """Of many threads that withdraw an item, and one that claims it, one succeeds."""
    items = [make_item() for _ in range(300)]
    for item in items:
        books.admit(item)
    won: Counter[str] = Counter()

    def go_through(act: Callable[[WorkItem[Any]], bool]) -> None:
        for item in items:
            if act(item):
                won[item.id] += 1

    together(
        lambda: go_through(books.claim),
        *[lambda: go_through(lambda item: books.withdraw(item, CANCELLED))] * 4,
    )
    assert won == Counter(item.id for item in items)
    running = [item for item in items if item.status is Status.RUNNING]
    assert books.ledger.stats().running == len(running)
    for item in items:
        if item in running:
            books.settle(item, SUCCEEDED)
        books.remove(item)
    assert books.ledger.stats() == Stats(0, 0, len(running), 0, 300 - len(running), 0)
    assert books.ledger.is_idle()


def test_claimed_while_a_close_gives_up() -> None:
    """A close that finds items in flight changes nothing, also for a thread that claims one just then."""
    claimed: list[bool] = []

    class Closing(Ledger):
        def is_idle(self) -> bool:
            idle = super().is_idle()
            # As an executor's thread may, between the beginning and the end of close().
            claimer.start()
            claimer.join(0.05)
            return idle

    executor = Nowhere("thread", 1)
    ledger = Closing([executor])
    item = make_item()
    claimer = threading.Thread(target=lambda: claimed.append(ledger.claim(item, executor, Attempt(1.0))))
    assert ledger.begin_stop()
    assert ledger.admit(item, executor, 1)
    assert not ledger.close(if_idle=True)
    claimer.join(BOUND)
    assert claimed == [True]


def test_recorded_while_it_ends(books: Books) -> None:
    """An item that ends just as it is put on record has ended; putting it on record raises nothing."""
    item = make_item()
    books.admit(item)
    books.claim(item)
    books.ledger.begin_stop()
    attempt = item._attempt
    assert attempt is not None
    settler = threading.Thread(target=lambda: books.settle(item, SUCCEEDED))

    class Slow(Attempt):
        """Lets the item end between the look at its status and the writing of the record."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "error" and isinstance(value, ItemInterruptedError) and not settler.ident:
                settler.start()
                settler.join(0.05)
            super().__setattr__(name, value)

    attempt.__class__ = Slow
    books.record(item)
    settler.join(BOUND)
    assert item.status is Status.SUCCEEDED
    assert item.result(0) == 42


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("overflow", ["raise", "block"])
def test_few_places(make_site: Callable[..., Site], overflow: str) -> None:
    """If many threads enqueue at once and few items may wait, all calls return and all accepted items run."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW=overflow)
    ran: list[int] = []
    accepted: list[int] = []
    task = site.background.task(ran.append)

    def enqueue(thread: int) -> None:
        for number in range(100):
            try:
                task.enqueue(1000 * thread + number)
            except Exception:
                assert overflow == "raise"
            else:
                accepted.append(1000 * thread + number)

    together(*(lambda n=n: enqueue(n) for n in range(6)))
    assert site.background.wait_idle(BOUND)
    assert sorted(ran) == sorted(accepted)
    if overflow == "block":
        assert len(ran) == 600


def test_nobody_waits_at_an_empty_queue(make_site: Callable[..., Site]) -> None:
    """Several calls that reach an empty queue at once do not all refuse one another: some have room."""
    written, looked = threading.Barrier(3), threading.Barrier(3)

    def meet(barrier: threading.Barrier) -> None:
        if threading.current_thread().name.startswith("visitor"):
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.1)

    class Simultaneous(dict[str, Any]):
        """A book in which all have written their items before any of them looks at the number."""

        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            meet(written)

        def __len__(self) -> int:
            number = super().__len__()
            meet(looked)
            return number

    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="block")
    site.backend.executors["thread"].queued = Simultaneous()
    items: list[WorkItem[int]] = []
    visitors = [
        threading.Thread(
            target=lambda: items.append(site.background.enqueue(lambda: 42)), name=f"visitor-{n}", daemon=True
        )
        for n in range(3)
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(1.0)
    waiting = [visitor for visitor in visitors if visitor.is_alive()]
    site.background.stop(0)
    for visitor in waiting:
        visitor.join(BOUND)
    assert not waiting
    assert len(items) == 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", range(8))
def test_stop_in_the_thick_of_it(
    make_site: Callable[..., Site], seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whenever the stop comes, each accepted item has one end, and the counts agree with that."""
    chance = random.Random(seed)
    site = make_site(BACKGROUND_WORKERS=3)
    background = site.background
    task = background.task(lambda number: number)
    items: list[WorkItem[int]] = []
    stop_at = threading.Event()

    def enqueue() -> None:
        try:
            for number in range(300):
                items.append(task.enqueue(number))
                if number > 20:
                    stop_at.set()
        except Exception:
            pass

    def cancel() -> None:
        for _ in range(100):
            if items:
                items[-1].cancel()

    def stop() -> None:
        assert stop_at.wait(BOUND)
        site.backend.shutdown.begin(0.0, grace=chance.choice([0, 1e9]), allowance=0)
        for _ in range(chance.randrange(4)):
            site.backend.shutdown.tick()
            site.backend.shutdown.close_if_idle()
        background.stop(0)
        site.backend.shutdown.time_is_up()

    together(enqueue, enqueue, cancel, stop)
    assert background.wait_idle(BOUND)
    assert all(item.status.is_final for item in items)
    ends = Counter(str(item.status) for item in items)
    stats = background.stats()
    assert stats == Stats(0, 0, *(ends[name] for name in Stats._fields[2:]))
    for item in items:
        assert item.wait(0)
        if item.status is Status.SUCCEEDED:
            assert isinstance(item.result(0), int)
        else:
            assert item.exception(0) is not None
    assert not [line for line in lines(caplog) if "failed" in line]


# Every order of events.

ACTS: dict[str, Callable[[Books, WorkItem[Any]], object]] = {
    "claim": lambda books, item: books.claim(item),
    "cancel": lambda books, item: books.withdraw(item, CANCELLED),
    "record": lambda books, item: books.record(item),
    "drop": lambda books, item: books.withdraw(item, INTERRUPTED),
    "begin": lambda books, item: books.ledger.begin_stop(),
    "close": lambda books, item: books.ledger.close(),
    "succeed": lambda books, item: books.settle(item, SUCCEEDED),
    "interrupt": lambda books, item: books.settle(item, INTERRUPTED),
}


@pytest.mark.parametrize("first", ACTS)
def test_every_order(first: str) -> None:
    """After any sequence of events the counts agree with the item, and it has run once at most."""
    for rest in itertools.product(ACTS, repeat=4 if CI else 3):
        history = (first, *rest)
        books, item = Books(), make_item()
        books.admit(item)
        is_running = has_ended = False
        for name in history:
            if name in ("succeed", "interrupt") and not is_running:
                continue  # nobody settles what does not run
            if has_ended and name not in ("begin", "close"):
                continue  # its backend has let it go
            if name == "claim" and item.attempt:
                continue  # it was put into one queue, once
            done = ACTS[name](books, item)
            if name == "claim" and done:
                assert not is_running, history
                assert books.ledger.phase is not Phase.STOPPED, history
                is_running = True
            elif name in ("succeed", "interrupt") or (name in ("cancel", "drop") and done):
                assert is_running == (name in ("succeed", "interrupt")), history
                is_running, has_ended = False, True
                books.remove(item)
            assert item.attempt <= 1, history
            assert books.ledger.is_idle() is has_ended, history
            assert books.ledger.unfinished() == ([] if has_ended else [item]), history
            assert books.ledger.all() == [item], history
            assert books.ledger.get(item.id) is item, history
            stats = books.ledger.stats()
            assert (stats.queued, stats.running) == (not (has_ended or is_running), is_running), history
            ended = {name: n for name, n in zip(Stats._fields[2:], stats[2:], strict=True) if n}
            assert ended == ({str(item.status): 1} if has_ended else {}), history
