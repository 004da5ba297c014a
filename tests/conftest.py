"""Apps, gates and scripts for the tests, and a detector of what they leave behind."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, has_app_context, has_request_context
from flask.globals import app_ctx, request_ctx
from flask.testing import FlaskClient

from flask_background import Background, WorkItem, hosts
from flask_background.concurrency import callbacks, timers
from flask_background.core.backend import Phase

from .helpers import Script, Site, our_threads

if TYPE_CHECKING:
    from .browser import Browser
    from .rabbitmq_server import RabbitMQ
    from .redis_server import Redis

# A shell's background job ignores Ctrl-C, and a command under nohup ignores HUP. So would every server that a
# test starts and then stops by one of these.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

# How long what a test has started may take to be gone.
_GONE_WITHIN = 5.0


@pytest.fixture(autouse=True)
def no_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop every app of a test, and fail the test if an item, a thread or a context is left."""
    # These threads stay a while for the next timer or callback; here that would only slow down each test.
    monkeypatch.setattr(timers, "_LINGER", 0.02)
    monkeypatch.setattr(callbacks, "_LINGER", 0.02)
    before = {*our_threads(), *_in_flight()}
    yield
    left = _contexts()
    for backend in hosts.current().backends():
        # Backends of earlier tests may live until Python collects them.
        if backend.ledger.phase is not Phase.STOPPED:
            backend.stop(0)
    end = time.monotonic() + _GONE_WITHIN
    while (remains := _remains(before)) and time.monotonic() < end:
        time.sleep(0.002)
    if left or remains:
        pytest.fail(f"left behind: {', '.join(left + remains)}")


def _contexts() -> list[str]:
    """The contexts that are left, which are popped so that they hurt no other test."""
    left = []
    while has_request_context():
        left.append(repr(request_ctx))
        request_ctx.pop()
    while has_app_context():
        left.append(repr(app_ctx))
        app_ctx.pop()
    return left


def _in_flight() -> list[WorkItem[Any]]:
    return [item for backend in hosts.current().backends() for item in backend.ledger.unfinished()]


def _remains(before: set[object]) -> list[str]:
    """The items in flight, and the threads, that the test has left behind."""
    threads = [thread.name for thread in our_threads() if thread not in before]
    # One watcher serves the whole process, and stays for 5 s.
    if sum(thread.name == "background-watcher" for thread in our_threads()) < 2:
        threads = [name for name in threads if name != "background-watcher"]
    return [repr(item) for item in _in_flight() if item not in before] + threads


@pytest.fixture
def make_site() -> Callable[..., Site]:
    """Makes apps with these settings, and a Background for each."""

    def make(name: str = "shop", **settings: Any) -> Site:
        app = Flask(name)
        app.config.update({"BACKGROUND_HAND_OVER": False} | settings)  # else a stop may make a journal
        return Site(app, Background(app))

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """An app and its Background, with the settings as they are by default."""
    return make_site()


@pytest.fixture
def app(site: Site) -> Flask:
    """The app."""
    return site.app


@pytest.fixture
def background(site: Site) -> Background:
    """The app's Background."""
    return site.background


@pytest.fixture
def client(site: Site) -> FlaskClient:
    """A client of the app."""
    return site.client


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds items up until it is set, at the latest when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis, started for the first test that needs one."""
    from .redis_server import Redis  # with redis, which the quick tests do without

    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ, started for the first test that needs one: that takes seconds."""
    from .rabbitmq_server import RabbitMQ

    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns a thousand times as often, so that they meet where they should not."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Starts Python programs; what is still running when the test is over is killed."""
    started: list[Script] = []

    def start(*sources: str, within: Sequence[str] = ()) -> Script:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Script(folder, *sources, within=within))
        return started[-1]

    yield start
    for program in started:
        program.kill()


# What a test needs beside this process's memory, by its folder, its fixtures and its parameters. A module can
# say it for itself: ``pytestmark = pytest.mark.process``.
_FOLDERS = {
    "server": ("celery", "contrib", "demo", "integration"),
    "process": (
        "contracts",
        "dashboard",
        "durable",
        "executors/processes",
        "faults",
        "hosts",
        "samples",
        "tools",
        "typing",
    ),
}
_MARKED = re.compile(r"^pytestmark = .*\bmark\.(process|server)\b", re.MULTILINE)
_FIXTURES = {"server": {"rabbit", "redis"}, "process": {"script"}}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave folders and modules alone that have no unit test, where only those are wanted.

    To import them, and to rewrite their assertions, would take as long as a quarter of the unit tests.
    """
    if config.option.markexpr != "unit":
        return None
    if collection_path.suffix == ".py":
        return _MARKED.search(collection_path.read_text()) is not None or None
    return _folder_kind(collection_path) is not None or None


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates in reports: pytest-xdist cannot send them, and the whole run would end."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test: server, process or unit."""
    for item in items:
        item.add_marker(_kind_of(item))


@cache
def _folder_kind(folder: Path) -> str | None:
    """The kind of all tests in a folder, if they are of one kind by their folder."""
    inside = folder.relative_to(Path(__file__).parent)
    for kind, names in _FOLDERS.items():
        if any(inside.is_relative_to(name) for name in names):
            return kind
    return None


def _kind_of(item: pytest.Item) -> str:
    fixtures = set(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    uses_celery = callspec is not None and callspec.params.get("shop") in ("celery", "rabbitmq")
    for kind in ("server", "process"):
        if (
            _folder_kind(item.path.parent) == kind
            or fixtures & _FIXTURES[kind]
            or item.get_closest_marker(kind)
            or (uses_celery and kind == "server")
        ):
            return kind
    return "unit"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, for all tests of this process."""
    from .browser import start_browser  # selenium is not there for the quick tests

    with start_browser(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("shots")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A browser for one test: its last page asks for nothing more when the test's server is gone."""
    yield chromium
    chromium.open("about:blank")
    chromium.complaints()
