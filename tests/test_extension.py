"""The extension: found by the app, idle until it is needed, one per app."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app

import flask_background
from flask_background import Background, Status, WorkItem, current_item
from flask_background.errors import NotInitializedError

from .helpers import BOUND, ROOT, Script, Site


def test_exports() -> None:
    """The package exports what the design says, and nothing else."""
    assert set(flask_background.__all__) == {
        "Background",
        "Call",
        "CancelReason",
        "CancellationToken",
        "Progress",
        "RequestState",
        "Status",
        "Task",
        "WorkItem",
        "__version__",
        "current_item",
    }
    assert flask_background.__version__ == version("flask-background")
    for name in flask_background.__all__:
        assert hasattr(flask_background, name)


@pytest.mark.process
def test_every_room_can_be_imported() -> None:
    """Every module can be imported, also where gunicorn, gevent or another framework is missing.

    The modules of Celery and of greenlets cannot; they are imported where those are used.
    """
    package = ROOT / "flask_background"
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "celery") and path.stem not in ("greenlets", "hub_loop")
    ]
    assert len(names) > 20
    block = "import sys; sys.modules.update(dict.fromkeys(['gunicorn', 'gevent', 'celery', 'sqlalchemy']))"
    source = f"{block}\nimport " + ", ".join(names)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# Finding the app.


def test_app_of_the_constructor(background: Background) -> None:
    """Outside of every context the app of the constructor is meant."""
    assert background.enqueue(lambda: 42).result(BOUND) == 42


def test_current_app_wins(make_site: Callable[..., Site]) -> None:
    """In an app's context that app is meant, also where the constructor was given another one."""
    one, other = make_site("one"), Flask("other")
    one.background.init_app(other)
    item = one.background.enqueue(lambda: 42)
    with other.app_context():
        of_other = one.background.enqueue(lambda: 42)
        assert one.background.items() == [of_other]
    assert one.background.items() == [item]
    item.wait(BOUND)
    of_other.wait(BOUND)


def test_factory() -> None:
    """One Background, made without an app, serves every app that a factory makes."""
    background = Background()

    @background.task
    def name() -> str:
        return current_app.name

    def create_app(name: str) -> Flask:
        app = Flask(name)
        background.init_app(app)
        return app

    apps = [create_app("one"), create_app("two")]
    for app in apps:
        app.add_url_rule("/", view_func=lambda: name.enqueue().result(BOUND))
        assert app.test_client().get("/").text == app.name
        with app.app_context():
            assert background.stats().succeeded == 1


def test_two_apps_in_one_request(make_site: Callable[..., Site]) -> None:
    """Two apps with a Background each: a task belongs to the app that it was made with."""
    one, two = make_site("one"), make_site("two")
    task = two.background.task(lambda: current_item.status)
    with two.app.app_context():
        assert task.enqueue().result(BOUND) is Status.RUNNING
    with one.app.app_context(), pytest.raises(NotInitializedError, match="'one'"):
        task.enqueue()
    assert one.background.items() == []


USES: list[Callable[[Background], Any]] = [
    lambda background: background.enqueue(print),
    lambda background: background.task(print).enqueue(),
    lambda background: background.get("id"),
    lambda background: background.items(),
    lambda background: background.stats(),
    lambda background: background.wait_idle(0),
    lambda background: background.stop(0),
]


@pytest.mark.parametrize("use", USES)
def test_no_app(use: Callable[[Background], Any]) -> None:
    """Without an app each use is a RuntimeError that says what to do."""
    with pytest.raises(NotInitializedError, match=r"with app\.app_context\(\):") as caught:
        use(Background())
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("use", USES)
def test_not_initialised(use: Callable[[Background], Any]) -> None:
    """In the context of an app that was not initialised each use says so."""
    app = Flask("shop")
    with (
        app.app_context(),
        pytest.raises(NotInitializedError, match=r"'shop': call background\.init_app\(app\)"),
    ):
        use(Background())


def test_another_background(app: Flask, background: Background) -> None:
    """A Background that is not the app's own raises an error."""
    other = Background()
    with app.app_context(), pytest.raises(NotInitializedError, match="not initialised for app 'shop'"):
        other.enqueue(print)
    assert background.items() == []


# Initialising.


def test_second_init(app: Flask, background: Background) -> None:
    """A second init on the same app raises, by whatever Background and in whatever way."""
    for init in (
        lambda: background.init_app(app),
        lambda: Background().init_app(app),
        lambda: Background(app),
    ):
        with pytest.raises(RuntimeError, match=r"'shop' already has a Background: .*once per app"):
            init()
    assert app.extensions["background"] is background
    assert background.enqueue(lambda: 42).result(BOUND) == 42


def test_init_before_blueprints_and_after(app: Flask, background: Background) -> None:
    """Blueprints' views enqueue as the app's own do."""
    pages = Blueprint("pages", "pages")
    items: list[WorkItem[int]] = []

    @pages.get("/page")
    def page() -> str:
        items.append(background.enqueue(lambda: 42))
        return ""

    app.register_blueprint(pages)
    assert app.test_client().get("/page").status_code == 200
    assert items[0].result(BOUND) == 42


# Idle.

IDLE = """
    import sys, threading
    import flask_background.extension, flask_background.signals, flask_background.errors
    from flask import Flask, request
    assert threading.enumerate() == [threading.main_thread()], "import"
    assert not {"gunicorn", "gevent", "celery", "sqlite3"} & set(sys.modules) - before
    app = Flask("shop")
    background = flask_background.Background(app)
    other = Flask("other")
    background.init_app(other)
    task = background.task(lambda: 42)
    later = task.using(when="response", timeout=5)
    background.state_processor(lambda: {"path": request.path})
    assert threading.enumerate() == [threading.main_thread()], "init"
    app.add_url_rule("/", view_func=lambda: str(task()))
    for _ in range(100):
        assert app.test_client().get("/").text == "42"
    assert background.items() == [] and background.wait_idle(0)
    assert threading.enumerate() == [threading.main_thread()], "idle"
    print("idle")
    with app.test_request_context():
        item = task.enqueue()
    assert item.result(5) == 42
    assert threading.active_count() > 1
    print("busy")
"""


def test_idle_app_pays_nothing(script: Callable[..., Script]) -> None:
    """Neither import, nor init_app, nor requests, nor direct calls start a thread; the first item does."""
    program = script("import sys, flask\nbefore = set(sys.modules)\n", IDLE)
    assert program.ends() == 0, program.said
    assert program.said == "idle\nbusy\n"
