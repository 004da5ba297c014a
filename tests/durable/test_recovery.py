"""The items of other processes: run again when these are dead, wherever they ran, and left alone before."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_background.app_state import state_of
from flask_background.durable import recovery
from flask_background.durable.journal import process_identity, wakeups
from flask_background.errors import JournalError

from ..helpers import BOUND, Script, Site, lines, until
from .shop import Shop

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
USER_CONTAINER = ("unshare", "--user", "--map-root-user", *CONTAINER[1:])
NOBODY = 65534

# A process that looks over everything all the time.
HASTY = """
    from flask_background.durable import maintenance
    maintenance._LOOK_OVER_EVERY = 0.0
    maintenance._NET = 0.05
"""
HOLDS = """
    work.enqueue("hold")
    serve()
"""


@pytest.fixture
def owners(shop: Shop) -> Path:
    """The folder of the processes."""
    return shop.folder / "journal" / "owners"


def remove(owners: Path) -> None:
    """Remove the files of all processes, as a program that cleans up old files does."""
    for path in list(owners.iterdir()):
        path.unlink()


@pytest.mark.parametrize(
    ("first", "second"),
    [(CONTAINER, CONTAINER), (USER_CONTAINER, CONTAINER), ((), CONTAINER), (CONTAINER, ())],
    ids=["both", "user", "outside", "inside"],
)
def test_containers(shop: Shop, owners: Path, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """An item of a dead container runs in another one at once, though pids repeat and wake-ups go on."""
    dies = shop.start(HOLDS, within=first)
    until(lambda: len(shop.runs()) == 1)
    other = shop.start("serve()", within=second)
    other.wait_for("serves")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:  # the living process keeps its item
        wakeups.wake_all(owners)
        time.sleep(0.01)
    assert len(shop.runs()) == 1
    dies.kill()
    began = time.monotonic()

    def runs_again() -> bool:
        wakeups.wake_all(owners)
        return len(shop.runs()) == 2

    until(runs_again)
    assert time.monotonic() - began < 5
    shop.touch("go")
    until(lambda: shop.rows()[0]["status"] == "succeeded")
    (row,) = shop.rows()
    assert (row["attempt"], row["crashes"]) == (2, 1)


def stays_alone(shop: Shop, seconds: float) -> None:
    """Assert, for some seconds, that the item is run by one process only."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert len(shop.runs()) == 1
        time.sleep(0.01)


@pytest.mark.parametrize("within", [(), CONTAINER], ids=["here", "container"])
def test_files_that_a_cleaner_removed(shop: Shop, owners: Path, within: tuple[str, ...]) -> None:
    """A living process makes its files again, and nobody runs its item beside it until it dies."""
    first = shop.start(HOLDS)
    until(lambda: len(shop.runs()) == 1)
    other = shop.start(HASTY, "serve()", within=within)
    other.wait_for("serves")
    before = sorted(path.name for path in owners.iterdir())
    remove(owners)
    until(lambda: sorted(path.name for path in owners.iterdir()) == before)
    stays_alone(shop, 1)
    first.kill()
    until(lambda: len(shop.runs()) == 2)
    shop.touch("go")
    until(lambda: shop.rows()[0]["status"] == "succeeded")
    (row,) = shop.rows()
    assert (row["attempt"], row["crashes"]) == (2, 1)


def test_signal(shop: Shop) -> None:
    """The process that finds the items of a dead one tells how many run again."""
    dies = shop.start(HOLDS)
    until(lambda: len(shop.runs()) == 1)
    dies.kill()
    finds = """
    from flask_background import signals
    receive = lambda app, count: say("recovered", count)
    signals.items_recovered.connect(receive)
    serve()
    """
    shop.start(finds).wait_for("recovered 1")


def test_files_of_a_stopped_process(shop: Shop, owners: Path) -> None:
    """A process that is stopped cannot make its files again: its items wait until it goes on, or dies."""
    first = shop.start(HOLDS)
    until(lambda: len(shop.runs()) == 1)
    other = shop.start(HASTY, "serve()")
    other.wait_for("serves")
    until(lambda: shop.rows()[0]["status"] == "running")
    first.send(signal.SIGSTOP)
    remove(owners)
    stays_alone(shop, 2)
    first.kill()
    until(lambda: len(shop.runs()) == 2)
    shop.touch("go")
    until(lambda: shop.rows()[0]["status"] == "succeeded")


def test_lock_that_the_process_itself_has_lost(shop: Shop, owners: Path) -> None:
    """An item that reads all files beside the journal, as a backup does, is not run again beside itself."""
    then = """
    @background.task(durable=True, name="backup")
    def backup():
        tell("begin", "backup")
        for path in (folder / "journal" / "owners").iterdir():
            if path.suffix != ".bell":
                path.read_bytes()
        await_file("go")

    if {enqueues}:
        backup.enqueue()
    serve()
    """
    shop.start(then.format(enqueues=True))
    until(lambda: len(shop.runs()) == 1)
    other = shop.start(HASTY, then.format(enqueues=False))
    other.wait_for("serves")
    end = time.monotonic() + 2
    while time.monotonic() < end:
        wakeups.wake_all(owners)
        assert len(shop.runs()) == 1
        time.sleep(0.01)
    shop.touch("go")
    until(lambda: shop.rows()[0]["status"] == "succeeded")


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)


def own_by(site: Site, owner: str) -> str:
    """Enqueue an item that another process has claimed; return the item's id."""
    item = site.background.task(durable=True)(print).enqueue()
    state_of(site.app).durable.session.writer.write(
        lambda db: db.execute("update item set owner = ?, fence = 1", (owner,)).rowcount
    )
    return item.id


def owner_of(site: Site, item_id: str) -> str | None:
    """The process that has claimed an item."""
    row = state_of(site.app).durable.session.read_row(item_id)
    assert row is not None
    return row.owner


def test_process_of_which_nothing_is_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a file, of which the kernel tells nothing, is dead after some time."""
    pid, start, _, boot, number = process_identity.new_id().split("-")
    item_id = own_by(site, f"{pid}-{start}-1-{boot}-{number}")
    recover = state_of(site.app).durable.maintenance.recovery.recover_absent
    recover()
    recover()
    assert owner_of(site, item_id) is not None
    monkeypatch.setattr(recovery, "_ABSENT", 0.0)
    recover()
    assert owner_of(site, item_id) is None


def test_items_of_a_dead_process_are_freed_in_pieces(site: Site, tmp_path: Path) -> None:
    """However many items a dead process had, each transaction frees a bounded number of them."""
    durable = state_of(site.app).durable
    task = site.background.task(durable=True)(print)
    first = task.enqueue()
    rows = durable.session.read_row(first.id)
    assert rows is not None
    from flask_background.durable.journal import statements

    def enter(db: object) -> None:
        made = [rows._replace(id=f"{number:024x}", owner="1-dead", fence=1) for number in range(450)]
        statements.insert_all(db, made)  # type: ignore[arg-type]

    durable.session.writer.write(enter)
    before = durable.session.writer.transactions
    assert durable.maintenance.recovery.free("1-dead", (), charged=True) == 450
    assert durable.session.writer.transactions - before >= 3


def test_processes_of_other_users(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A process that runs as another user is named once, with both users and the cure."""
    durable = state_of(site.app).durable
    assert durable.maintenance.close(BOUND)  # its thread would remove these files, as those of dead processes
    folder = durable.session.process_lock.folder
    for name in ("7-1-1-1-a", "8-1-1-1-b"):
        (folder / name).touch()
        os.chown(folder / name, NOBODY, NOBODY)
    for _ in range(2):
        durable.maintenance.recovery.warn_of_strangers()
    (line,) = [line for line in lines(caplog) if "as another" in line or "as user" in line]
    assert "runs as user nobody (65534), and this process as user root (0)" in line
    assert f"give {folder.parent} and all that is in it to that user (chown -R)" in line
    for name in ("7-1-1-1-a", "8-1-1-1-b"):
        (folder / name).unlink()


USER = """
    import sqlite3
    # Everything is imported while this process may still read it.
    import flask.testing, flask_background.durable.backend, flask_background.local.tally
    import flask_background.cli.commands, flask_background.monitoring.health
    app.test_cli_runner().invoke(args=["background", "--help"])
    state_of(app).backend
    os.setgroups([])
    os.setgid({user})
    os.setuid({user})
    try:
        work.enqueue("x")
        say("enqueued")
    except Exception as error:
        say(type(error).__name__, error)
    result = app.test_cli_runner().invoke(args=["background", "doctor"])
    say(result.output, result.exception)
    say("done")
    background.stop(0)
"""


@pytest.fixture
def open_shop(script: Callable[..., Script]) -> Iterator[Shop]:
    """A shop in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Shop(folder, script)
    shutil.rmtree(folder)


def test_two_users(open_shop: Shop, make_site: Callable[..., Site]) -> None:
    """The second user of a journal is refused at once, with both users and the cure, and so is root."""
    cure = "run all processes of the app, its workers and commands too, as one user"
    program = open_shop.start(USER.format(user=0))
    program.wait_for("done")
    assert "enqueued" in program.said
    program = open_shop.start(USER.format(user=NOBODY))
    program.wait_for("done")
    assert "enqueued" not in program.said
    assert program.said.count("belongs to user root (0), and this process runs as user nobody (65534)") == 3
    assert program.said.count(cure) == 3  # the log, the error, and doctor
    assert "error   journal" in program.said
    for path in (open_shop.folder / "journal", *(open_shop.folder / "journal").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    program = open_shop.start(USER.format(user=NOBODY))
    program.wait_for("done")
    assert "enqueued" in program.said
    site = make_site(BACKGROUND_JOURNAL=open_shop.folder / "journal")
    with pytest.raises(
        JournalError, match=r"belongs to user nobody \(65534\), and this process runs as user root"
    ):
        site.background.task(durable=True)(print).enqueue()


def test_journal_in_a_folder_that_is_closed_to_this_user(open_shop: Shop) -> None:
    """A user who may not even enter the folder above is told his name, and the cure."""
    (open_shop.folder / "journal").mkdir()
    open_shop.folder.chmod(0o700)
    program = open_shop.start(USER.format(user=NOBODY))
    program.wait_for("done")
    assert "JournalError" in program.said
    assert "this process runs as user nobody (65534)" in program.said
