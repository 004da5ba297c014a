"""The state of an app: its settings, and a backend in each process, made when it is needed."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_background import Background, hosts
from flask_background.app_state import state_of
from flask_background.errors import NotInitializedError

from .helpers import BOUND, Site, our_threads, until


def test_nothing_before_the_first_item(app: Flask, background: Background) -> None:
    """The state has the app and the settings; a backend is made when it is first asked for."""
    state = state_of(app)
    assert state.app is app
    assert app.extensions["background"] is background
    assert state.registry is background._registry
    assert state.settings.grace_period == 90.0
    before = hosts.current().backends()
    backend = state.backend
    assert backend.shutdown not in before
    assert state.backend is backend
    assert backend.app is app
    assert backend.shutdown in hosts.current().backends()


@pytest.mark.usefixtures("hasty")
def test_switch_interval(make_site: Callable[..., Site]) -> None:
    """The process has the app's switch interval from the first item on; without the setting it stays."""
    before = sys.getswitchinterval()
    first = make_site()
    first.background.enqueue(len, "x").result(BOUND)
    site = make_site(BACKGROUND_SWITCH_INTERVAL=0.0005)
    assert sys.getswitchinterval() == before
    site.background.enqueue(len, "x").result(BOUND)
    assert sys.getswitchinterval() == pytest.approx(0.0005)


@pytest.mark.usefixtures("hasty")
def test_one_backend(make_site: Callable[..., Site]) -> None:
    """Many threads that ask first at the same time get the same backend, and their items all run."""
    for _ in range(10):
        site = make_site()
        barrier = threading.Barrier(8)
        seen: list[Any] = []

        def ask(site: Site = site, barrier: threading.Barrier = barrier, seen: list[Any] = seen) -> None:
            barrier.wait(BOUND)
            seen.append((site.backend, site.background.enqueue(lambda: 42)))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert {backend for backend, _ in seen} == {site.backend}
        assert [item.result(BOUND) for _, item in seen] == [42] * 8


def test_looking_starts_nothing(background: Background) -> None:
    """Asking for items and counts starts no thread."""
    before = set(our_threads())
    assert background.get("nobody") is None
    assert background.items() == []
    assert sum(background.stats()) == 0
    assert background.wait_idle(0)
    assert set(our_threads()) <= before


def test_backend_goes_with_its_app() -> None:
    """An app that is not used any more is not kept by the host, which knows it weakly."""

    def use() -> weakref.ref[Flask]:
        app = Flask("gone")
        background = Background(app)
        assert background.enqueue(lambda: 42).result(BOUND) == 42
        assert background.wait_idle(BOUND)
        background.stop(0)
        return weakref.ref(app)

    reference = use()
    for thread in our_threads():
        if thread.name != "background-watcher":
            thread.join(BOUND)

    def is_gone() -> bool:  # the watcher may be in the middle of a look
        gc.collect()
        return reference() is None

    until(is_gone)


def by_argument(app: Flask) -> Background:
    """A Background of the app."""
    return Background(app)


def by_init_app(app: Flask) -> Background:
    """A Background that the app is given to later."""
    background = Background()
    background.init_app(app)
    return background


@pytest.mark.parametrize("serves", [False, True], ids=["idle", "served"])
@pytest.mark.parametrize("make", [by_argument, by_init_app])
def test_app_is_freed_at_once(make: Callable[[Flask], Background], serves: bool) -> None:
    """An app with a Background is in no reference cycle, as one without: it goes with its last reference."""
    app = Flask("freed")
    background = make(app)
    background.task(print)
    background.task(name="later", when="response")(lambda: None)

    @background.state_processor
    def locale() -> dict[str, str]:
        return {}

    @app.get("/")
    def index() -> str:
        return "served"

    gc.collect()
    gc.disable()
    try:
        if serves:
            with app.test_client() as client:
                assert client.get("/").text == "served"
            del client
        reference = weakref.ref(app)
        del app, index, locale
        assert reference() is None
    finally:
        gc.enable()
    with pytest.raises(NotInitializedError, match=r"which app|app of this Background is gone"):
        background.enqueue(print)


def test_wsgi_app_alone() -> None:
    """The wsgi_app of an app that is gone raises an error that says what to keep."""
    app = Flask("gone")
    Background(app)
    wsgi_app = app.wsgi_app
    del app
    gc.collect()
    with pytest.raises(RuntimeError, match="keep a reference to it"):
        wsgi_app({}, lambda *_: lambda _: None)


def test_middleware_of_others() -> None:
    """Middleware that came before the Background stays inside of it."""
    app = Flask("shop")
    inner = app.wsgi_app
    seen: list[str] = []

    def middleware(environ: Any, start_response: Any) -> Any:
        seen.append(environ["PATH_INFO"])
        return inner(environ, start_response)

    app.wsgi_app = middleware  # type: ignore[method-assign]
    Background(app)
    assert app.test_client().get("/somewhere").status_code == 404
    assert seen == ["/somewhere"]
