"""How a child process starts: when, with what app, and what is said when it cannot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from flask_background import Background, Status, current_item
from flask_background.errors import ConfigurationError, ItemCrashedError, ItemTimeoutError

from ...helpers import BOUND, Script, Site, our_threads, until
from ...integration.servers import alive
from .conftest import CPU, Shop, children

LINE = "No child process of the executor 'cpu' starts"


def test_starts_nothing_early(shop: Shop) -> None:
    """There is no child before the first item, and no second one while one is enough."""
    before = children()
    assert not [thread for thread in our_threads() if "cpu" in thread.name]
    assert shop.pid() not in {os.getpid(), *before}
    assert len(children() - before) == 1


def test_is_warm(make_shop: Callable[..., Shop]) -> None:
    """A child is kept for the next items."""
    shop = make_shop(cpu=CPU | {"workers": 1})
    assert len({shop.pid() for _ in range(5)}) == 1


def test_child_is_nice_and_limited(make_shop: Callable[..., Shop]) -> None:
    """The child runs with the niceness of the settings, on top of the parent's."""
    shop = make_shop(cpu=CPU | {"nice": 7})
    assert shop.call(os.nice, 0).result(BOUND) == min(19, os.nice(0) + 7)


def test_time_of_the_start_is_not_the_items(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """A timeout counts from when the child is ready."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2)\nfrom tests.children import create_app\n")
    shop = make_shop(BACKGROUND_APP="slow:create_app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert shop.call(os.getpid, timeout=1.5).result(BOUND)


def test_app_cannot_be_loaded(make_shop: Callable[..., Shop]) -> None:
    """An item whose child cannot load the app fails, and says why; so does the next one."""
    shop = make_shop(BACKGROUND_APP="tests.nowhere:app")
    for _ in range(2):
        error = shop.call(os.getpid).exception(BOUND)
        assert isinstance(error, ItemCrashedError)
        assert "could not load the app 'tests.nowhere:app'. BACKGROUND_APP says where" in str(error)
        assert "tests.nowhere" in str(error).partition("\n\n")[2]


def test_app_is_not_loaded_in_time(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that never comes to its end fails the item, and its child is gone."""
    (tmp_path / "serving.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("flask_background.executors.processes.child_process._STARTED_WITHIN", 0.5)
    before = children()
    error = make_shop(BACKGROUND_APP="serving:app").call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert "did not load the app 'serving:app' within" in str(error)
    assert children() == before


def test_child_dies_as_it_starts(make_shop: Callable[..., Shop], tmp_path: Path) -> None:
    """A module that ends the process when it is imported does not hang the item."""
    (tmp_path / "deadly.py").write_text("import os\nos._exit(7)\n")
    shop = make_shop(BACKGROUND_APP="deadly:app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        error = shop.call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert "ended with exit status 7 before it had loaded the app 'deadly:app'" in str(error)


@pytest.mark.parametrize(
    "how", ["raise ConnectionError('the database is down')", "__import__('os')._exit(7)"]
)
def test_durable_items_wait_for_children_that_start(
    make_shop: Callable[..., Shop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """While no child starts, durable items are put off, with one line in the log: that is no attempt."""
    down = tmp_path / "down"
    (tmp_path / "ill.py").write_text(
        f"import os\nif os.path.exists({str(down)!r}): {how}\nfrom tests.children import create_app\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shop = make_shop(
        durable=True, BACKGROUND_APP="ill:create_app", BACKGROUND_JOURNAL=str(tmp_path / "journal")
    )
    down.touch()
    items = [shop.call(os.getpid) for _ in range(6)]
    until(lambda: [record for record in caplog.records if LINE in record.message])
    assert not items[0].wait(1.5)  # another start has failed meanwhile
    until(lambda: {(item.status, item.attempt) for item in items} == {(Status.QUEUED, 0)})
    assert len([record for record in caplog.records if LINE in record.message]) == 1
    down.unlink()
    assert all(item.result(BOUND) for item in items)
    assert {item.attempt for item in items} == {1}


def test_durable_item_whose_child_dies_before_it_begins(
    make_shop: Callable[..., Shop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The child was taken to be alive, and the next one does not start: the item waits all the same."""
    down = tmp_path / "down"
    (tmp_path / "frail.py").write_text(
        f"import os\nif os.path.exists({str(down)!r}): os._exit(7)\nfrom tests.children import create_app\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shop = make_shop(True, CPU | {"workers": 1}, BACKGROUND_APP="frail:create_app")
    pid = shop.pid()
    down.touch()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    item = shop.call(os.getpid)
    until(lambda: any(LINE in record.message for record in caplog.records))
    until(lambda: (item.status, item.attempt) == (Status.QUEUED, 0))
    down.unlink()
    assert item.result(BOUND) not in (pid, os.getpid())
    assert item.attempt == 1


def test_app_that_gevent_patches(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app may have gevent patch its process when it is loaded; items there hear of their tokens."""
    patching = "from gevent import monkey; monkey.patch_all()\nfrom tests.children import create_app\n"
    (tmp_path / "patching.py").write_text(patching)
    monkeypatch.syspath_prepend(tmp_path)
    shop = make_shop(BACKGROUND_APP="patching:create_app", BACKGROUND_KILL_AFTER=BOUND)
    assert shop.pid()
    item = shop.call(wait_for_token, timeout=0.1)
    assert isinstance(item.exception(BOUND), ItemTimeoutError)
    assert shop.pid()


def wait_for_token() -> None:
    """Wait until the token fires, and heed it."""
    assert current_item.token.wait(BOUND)
    current_item.token.raise_if_cancelled()


def test_no_memory_for_the_app(make_shop: Callable[..., Shop]) -> None:
    """A limit that is too low for the app is named."""
    error = make_shop(cpu={"kind": "process", "max_memory": 1}).call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert "the app 'tests.children:create_app'" in str(error)
    assert " within its max_memory of 1 MiB" in str(error)


def test_app_that_enqueues_as_it_is_loaded(
    make_shop: Callable[..., Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an app cannot be loaded by a child, and the error says why."""
    enqueue = "with app.app_context(): app.extensions['background'].enqueue(print)\n"
    (tmp_path / "eager.py").write_text(
        f"from tests.children import create_app\napp = create_app()\n{enqueue}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    error = make_shop(BACKGROUND_APP="eager:app").call(os.getpid).exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    assert "print was enqueued in a child process, by an item or as the app was loaded there" in str(error)


def test_task_that_children_would_not_find(shop: Shop) -> None:
    """Another task of the same name is refused where it is enqueued."""
    other = shop.background.task(name="shop.other", executor="cpu")(lambda: 1)
    shop.background.task(name="shop.other", executor="cpu")(lambda: 2)
    with pytest.raises(ConfigurationError, match=r"shop\.other names the executor 'cpu'.*of this name"):
        other.enqueue()


def test_task_that_the_child_does_not_have(shop: Shop) -> None:
    """A task that is made in one process only fails there, by name."""
    here = shop.background.task(name="shop.here", executor="cpu")(lambda: 1)
    error = here.enqueue().exception(BOUND)
    assert isinstance(error, LookupError)
    assert "no task 'shop.here' in a child process" in str(error)


STARTED = """
import os, sys, time
from flask import Flask
from flask_background import Background
app = Flask(__name__)
app.config.update(BACKGROUND_EXECUTORS={"cpu": {"kind": "process"}}, BACKGROUND_APP="script:app")
background = Background(app)
class Order: pass
@background.task(executor="cpu")
def work(order=None):
    print("in the child")
    os._exit(3)
if __name__ == "__main__":
    with app.app_context():
        print(work.enqueue().exception(60))
        print(*work.enqueue(Order()).exception(60).__notes__)
"""


def test_script(script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a script, children know the tasks but not the classes, which the error says; prints are not lost."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = script(STARTED)
    assert program.ends() == 0
    assert "in the child\n" in program.said
    assert "ended with exit status 3" in program.said
    assert "in a module that can be imported there, not in a script" in program.said


def test_app_is_nowhere(make_shop: Callable[..., Shop]) -> None:
    """An app that children would not find is told so at the first enqueue, durable or not."""
    for durable in (False, True):
        shop = make_shop(durable, BACKGROUND_APP=None)
        with pytest.raises(ConfigurationError, match=r'BACKGROUND_APP = "shop:app"'):
            shop.call(os.getpid)


def test_wrong_location(make_site: Callable[..., Site]) -> None:
    """A location that is no text is refused by init_app."""
    app = Flask("shop")
    app.config["BACKGROUND_APP"] = app
    with pytest.raises(ConfigurationError, match="BACKGROUND_APP is <Flask 'shop'>"):
        Background(app)
