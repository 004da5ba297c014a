"""Durable items in several real processes that share a journal."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable

import pytest

from flask_background import Status
from flask_background.errors import JournalError

from ..helpers import BOUND, FULL, Site, until
from .shop import Shop, enqueue, work

PERIODIC = """
    @background.periodic(seconds={seconds})
    @background.task(durable=True, name="tick")
    def tick():
        tell("begin", "tick")
"""


@pytest.fixture
def site(make_site: Callable[..., Site], shop: Shop) -> Site:
    """The same app in this process, which only enqueues and looks."""
    site = make_site(BACKGROUND_JOURNAL=shop.folder / "journal", BACKGROUND_RUN_IN_WEB=False)
    site.background.task(durable=True, name="work")(work)
    return site


# The journal is made.


def test_quick_items_behind_a_long_one(shop: Shop, site: Site) -> None:
    """Items that one process has claimed, and that wait behind long ones, go to another one that is idle."""
    busy = shop.start("serve()")
    busy.wait_for("serves")
    for number in range(12):  # so that the process knows its runs to be short, and claims ahead
        assert enqueue(site, f"warm-{number}").wait(BOUND)
    with site.app.app_context():
        items = [enqueue(site, f"hold-{number}") for number in range(2)]
        items += [enqueue(site, f"quick-{number}") for number in range(4)]
    until(lambda: len(shop.runs("begin")) == 14)
    shop.start("serve()").wait_for("serves")
    assert [item.result(BOUND) for item in items[2:]] == [f"quick-{number}" for number in range(4)]
    assert len(shop.runs("end")) == 16  # the long ones go on
    shop.touch("go")
    assert [item.result(BOUND) for item in items[:2]] == ["hold-0", "hold-1"]


def test_race_to_create_the_journal(shop: Shop) -> None:
    """Of processes that make the journal at the same moment none fails, and no item of any is lost."""
    then = """
    say("ready")
    await_file("go")
    items = [work.enqueue(f"{name}-{{number}}") for number in range(20)]
    say("done", all(item.result(30) for item in items))
    background.stop(5)
    """
    programs = [shop.start(then.format(name=name)) for name in ("a", "b", "c")]
    for program in programs:
        program.wait_for("ready")
    assert not (shop.folder / "journal").exists()
    shop.touch("go")
    for program in programs:
        program.wait_for("done True")
        assert program.ends(30) == 0
    expected = {f"{name}-{number}": 1 for name in "abc" for number in range(20)}
    assert Counter(name for name, _, _ in shop.runs("end")) == expected
    assert [row["status"] for row in shop.rows()] == ["succeeded"] * 60
    assert shop.rows("pragma integrity_check") == [{"integrity_check": "ok"}]


def test_each_item_once_among_processes(shop: Shop, site: Site) -> None:
    """Three processes share the items that one enqueues, and run each once."""
    programs = [shop.start("serve()") for _ in range(3)]
    for program in programs:
        program.wait_for("serves")
    items = [enqueue(site, f"hold-{number}") for number in range(6)]
    items += [enqueue(site, str(number)) for number in range(60)]
    until(lambda: len({pid for _, pid, _ in shop.runs()}) == 3)
    shop.touch("go")
    for item in items:
        assert item.wait(BOUND)
    assert Counter(name for name, _, _ in shop.runs()) == {item.result(0): 1 for item in items}


def test_key_among_processes(shop: Shop) -> None:
    """Two processes that enqueue with one key at the same moment have one item."""
    then = """
    say("ready")
    await_file("go-{number}")
    say("id", work.using(key="k", delay=30).enqueue("x").id)
    await_file("stop")
    background.stop(0)
    """
    for number in range(2):
        programs = [shop.start(then.format(number=number)) for _ in range(2)]
        for program in programs:
            program.wait_for("ready")
        shop.touch(f"go-{number}")
        ids = []
        for program in programs:
            program.wait_for("id ")
            ids.append(program.said.split()[2])
        assert ids[0] == ids[1]
    assert len(shop.rows()) == 1
    shop.touch("stop")


# Periodic tasks.


def test_periodic_once_per_machine(shop: Shop) -> None:
    """Three processes run a periodic task as often as one would, also while one of them is killed."""
    programs = [shop.start(PERIODIC.format(seconds=0.25), "serve()") for _ in range(3)]
    for program in programs:
        program.wait_for("serves")
    until(lambda: len(shop.runs()) >= 4)
    programs[0].kill()
    count = len(shop.runs())
    until(lambda: len(shop.runs()) >= count + 4)
    shop.touch("stop")
    for program in programs[1:]:
        program.wait_for("stopped")
    planned = [row["due"] for row in shop.rows()]
    assert len(planned) == len(set(planned))
    for before, after in itertools.pairwise(planned):
        steps = (after - before) / 0.25
        assert steps > 0.99
        assert abs(steps - round(steps)) < 0.01  # in step, whoever fires
    # A kill may have one run twice, and nothing else does.
    assert len(planned) - 1 <= len(shop.runs()) <= len(planned) + 1


@pytest.mark.parametrize("count", [1, 3])
def test_missed_runs_are_caught_up_once(shop: Shop, count: int) -> None:
    """Of ten runs that were missed while nobody was up, one follows at once, whoever comes; then the next."""
    shop.start(PERIODIC.format(seconds=3600), "serve()").wait_for("serves")
    until(
        lambda: (shop.folder / "journal" / "journal.sqlite3").exists() and shop.rows("select * from schedule")
    )
    shop.touch("stop")
    until(lambda: not [name for name in os.listdir(shop.folder / "journal" / "owners") if "." not in name])
    (shop.folder / "stop").unlink()
    planned = shop.rows("select * from schedule")[0]["next"] - 10 * 3600 - 5
    shop.change("update schedule set next = ?", planned)
    programs = [shop.start(PERIODIC.format(seconds=3600), "serve()") for _ in range(count)]
    for program in programs:
        program.wait_for("serves")
    until(lambda: len(shop.runs()) == 1)
    (following,) = shop.rows("select * from schedule")
    assert abs(following["next"] - planned - 11 * 3600) < 10 or following["next"] > time.time()
    assert round((following["next"] - planned) / 3600, 6) == round((following["next"] - planned) / 3600)
    assert 0 < following["next"] - time.time() <= 3600
    shop.touch("stop")
    for program in programs:
        program.wait_for("stopped")
    assert len(shop.runs()) == len(shop.rows()) == 1


# Clocks.

HOURS = 7_200.0
CLOCK = """
    state_of(app).look_for_work()
    now = work.enqueue("now")
    hold = work.enqueue("hold")
    later = work.using(delay=1).enqueue("later")
    much_later = work.using(delay=3 * 3600).enqueue("much-later")
    ended = work.enqueue("ended")
    say("ended", ended.result(10))
    while hold.status is not Status.RUNNING:
        time.sleep(0.002)
    tell("set", "clock")
    shift[0] = {shift}
    state_of(app).durable.maintenance._looked_over_at = 0.0
    state_of(app).durable.session.wake_self()
    say("set")
    assert work.enqueue("after").result(10) == "after"
    (folder / "go").touch()
    assert hold.result(10) == "hold"
    say("found", background.get(ended.id) is not None, ended.status, now.status, much_later.status)
    say("later", later.wait({wait}))
    await_file("stop")
    background.stop(5)
"""


def test_clock_is_set_forward(shop: Shop) -> None:
    """Two hours more on the clock: what was due within them runs, nothing else does, and nothing expires."""
    program = shop.start(CLOCK.format(shift=HOURS, wait=10))
    program.wait_for("later True")
    assert "found True succeeded succeeded queued" in program.said
    assert Counter(name for name, _, _ in shop.runs()) == dict.fromkeys(
        ("now", "hold", "ended", "after", "later"), 1
    )
    (late,) = [row for row in shop.rows() if row["status"] == "queued"]
    assert late["attempt"] == 0
    assert len(shop.rows()) == 6
    assert {row["crashes"] for row in shop.rows()} == {0}
    shop.touch("stop")
    assert program.ends(30) == 0


def test_clock_is_set_back(shop: Shop) -> None:
    """Two hours less on the clock: nothing runs early, nothing expires, and what is due at once goes on."""
    program = shop.start(CLOCK.format(shift=-HOURS, wait=1.5))
    program.wait_for("later False")
    assert "found True succeeded succeeded queued" in program.said
    assert Counter(name for name, _, _ in shop.runs()) == dict.fromkeys(("now", "hold", "ended", "after"), 1)
    assert sorted(row["status"] for row in shop.rows()) == ["queued"] * 2 + ["succeeded"] * 4
    shop.touch("stop")
    assert program.ends(30) == 0


@pytest.mark.parametrize("shift", [HOURS, -HOURS])
def test_processes_whose_clocks_differ(shop: Shop, site: Site, shift: float) -> None:
    """A process whose clock is two hours off takes nobody's running items, and prunes nothing."""
    right = shop.start("serve()")
    right.wait_for("serves")
    hold = enqueue(site, "hold")
    until(lambda: hold.status is Status.RUNNING)
    ended = enqueue(site, "ended")
    assert ended.result(BOUND) == "ended"
    wrong = shop.start("serve()", shift=shift)
    wrong.wait_for("serves")
    waiting = enqueue(site, "waiting", delay=3 * 3600)
    for number in range(5):
        assert enqueue(site, f"more-{number}").wait(BOUND)
    shop.touch("go")
    assert hold.result(BOUND) == "hold"
    assert (hold.attempt, waiting.status) == (1, Status.QUEUED)
    assert site.background.get(ended.id) is not None
    assert len(shop.rows()) == 8
    assert max(Counter(name for name, _, _ in shop.runs()).values()) == 1


def test_periodic_with_a_clock_that_is_set(shop: Shop) -> None:
    """A clock set back by two hours does not hold a periodic task up for so long, nor run it in a burst."""
    then = """
    state_of(app).look_for_work()
    await_file("set")
    shift[0] = -7200.0
    state_of(app).durable.session.wake_self()
    await_file("stop")
    background.stop(5)
    """
    program = shop.start(PERIODIC.format(seconds=0.3), then)
    until(lambda: len(shop.runs()) >= 2)
    shop.touch("set")
    count = len(shop.runs())
    until(lambda: len(shop.runs()) >= count + 3)
    shop.touch("stop")
    assert program.ends(30) == 0
    assert len(shop.runs()) < count + 20


# Processes that stand still.


def test_stopped_process_keeps_its_items(shop: Shop, site: Site) -> None:
    """A process that is stopped for seconds keeps its items, and goes on with them afterwards."""
    stopped, other = shop.start("serve()"), None
    stopped.wait_for("serves")
    items = [enqueue(site, f"hold-{number}") for number in range(2)]
    until(lambda: len(shop.runs()) == 2)
    stopped.send(signal.SIGSTOP)
    try:
        other = shop.start("serve()")
        other.wait_for("serves")
        shop.touch("go")
        assert enqueue(site, "new").result(BOUND) == "new"
        began = time.monotonic()
        while time.monotonic() - began < (60 if FULL else 3):
            assert not any(item.wait(0.05) for item in items)
        assert {pid for name, pid, _ in shop.runs() if name != "new"} == {stopped.process.pid}
    finally:
        stopped.send(signal.SIGCONT)
    for item in items:
        assert item.wait(BOUND)
        assert (item.status, item.attempt) == (Status.SUCCEEDED, 1)
    assert Counter(name for name, _, _ in shop.runs("end")) == {
        "new": 1,
        **{f"hold-{number}": 1 for number in range(2)},
    }
    assert {pid for name, pid, _ in shop.runs() if name != "new"} == {stopped.process.pid}


def test_stopped_with_the_turn(shop: Shop, site: Site) -> None:
    """A process that is stopped while it writes holds others up for seconds, with an error, not for good."""
    then = """
    durable = state_of(app).durable
    durable.session.writer.write_later(lambda db: (say("writes"), await_file("written")))
    await_file("stop")
    background.stop(5)
    """
    assert enqueue(site, "first").status is Status.QUEUED
    program = shop.start(then, BACKGROUND_RUN_IN_WEB=False)
    program.wait_for("writes")
    program.send(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(JournalError):
        enqueue(site, "second")
    assert time.monotonic() - began < 8
    program.send(signal.SIGCONT)
    shop.touch("written")
    until(lambda: _is_accepted(site, "third"))
    payloads = [row["payload"] for row in shop.rows()]
    assert payloads[0] == '[["first"],{}]'
    assert '[["second"],{}]' not in payloads
    shop.touch("stop")
    assert program.ends(30) == 0


def _is_accepted(site: Site, name: str) -> bool:
    try:
        enqueue(site, name)
    except JournalError:
        return False
    return True


# Others in the way.


def test_another_program_holds_the_database(shop: Shop, site: Site) -> None:
    """Enqueue raises within seconds, what ran meanwhile is not lost, and all goes on by itself afterwards."""
    program = shop.start("serve()")
    program.wait_for("serves")
    held = enqueue(site, "hold")
    until(lambda: held.status is Status.RUNNING)
    holder = sqlite3.connect(shop.folder / "journal" / "journal.sqlite3", isolation_level=None)
    holder.execute("begin immediate")
    try:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(JournalError, match="cannot be used"):
                enqueue(site, "refused")
            assert time.monotonic() - began < 8
        shop.touch("go")
        until(lambda: shop.runs("end", "hold"))
        assert held.status is Status.RUNNING  # what is read is what was
    finally:
        holder.execute("rollback")
        holder.close()
    assert held.result(BOUND) == "hold"
    assert enqueue(site, "after").result(BOUND) == "after"
    assert Counter(name for name, _, _ in shop.runs()) == {"hold": 1, "after": 1}


READ_ONLY = """
    import ctypes
    from flask_background.errors import JournalError

    # To root modes mean nothing, unless it gives this up (CAP_DAC_OVERRIDE is the second bit).
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~2
    assert libc.capset(header, sets) == 0
    try:
        say("accepted", work.enqueue("x").id)
    except JournalError as error:
        say("refused", error.code, str(folder / "journal") in str(error))
    background.stop(1)
    say("idle", background.wait_idle(5))
"""


@pytest.mark.parametrize("what", ["parent", "folder", "file"])
def test_read_only(shop: Shop, what: str) -> None:
    """A journal that this process may not write is a JournalError that names the place, and nothing hangs."""
    journal = shop.folder / "journal"
    if what != "parent":
        first = shop.start("work.enqueue('first').result(10)\nbackground.stop(5)\n")
        assert first.ends(30) == 0
    paths = {
        "parent": [shop.folder],
        "folder": [journal, journal / "owners"],
        "file": [*journal.glob("journal*")],
    }
    for path in paths[what]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        program = shop.start(READ_ONLY)
        assert program.ends(30) == 0
        assert "refused 503 True" in program.said
        assert program.said.endswith("idle True\n")
    finally:
        for path in paths[what]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert shop.runs(name="x") == []


def test_disk_that_takes_no_more(shop: Shop) -> None:
    """When the disk takes nothing more under a process, enqueue raises; it works again when it does."""
    program = shop.start(
        """
    import resource, signal
    from flask_background.errors import JournalError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    work.enqueue("first").result(10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        work.enqueue("second")
    except JournalError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        say("refused", error.code)
    say("third", work.enqueue("third").result(10))
    background.stop(5)
    say("stopped")
    """
    )
    program.wait_for("stopped")
    assert program.ends(30) == 0
    assert "refused 503" in program.said
    assert [row["payload"] for row in shop.rows()] == ['[["first"],{}]', '[["third"],{}]']
