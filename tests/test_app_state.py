"""What an app holds: its settings, and a backend for each process, made when it is needed."""

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
from flask_background.app_state import BackgroundState

from .helpers import BOUND, Site, our_threads


def test_nothing_before_the_first_item(app: Flask, background: Background) -> None:
    """The part holds the app and the settings; there is no backend before somebody asks."""
    before = len(hosts.current().backends())
    part = app.extensions["background"]
    assert isinstance(part, BackgroundState)
    assert part.app is app
    assert part.owner is background
    assert part.settings.grace_period == 90.0
    assert "backend" not in vars(part)
    backend = part.backend
    assert part.backend is backend
    assert backend.app is app
    assert len(hosts.current().backends()) == before + 1


@pytest.mark.usefixtures("hasty")
def test_switch_interval(make_site: Callable[..., Site]) -> None:
    """It is the process's from the first item on; without the setting it stays what it was."""
    before = sys.getswitchinterval()
    make_site().background.enqueue(len, "x").result(BOUND)
    site = make_site(BACKGROUND_SWITCH_INTERVAL=0.0005)
    assert sys.getswitchinterval() == before
    site.background.enqueue(len, "x").result(BOUND)
    assert sys.getswitchinterval() == pytest.approx(0.0005)


@pytest.mark.usefixtures("hasty")
def test_one_backend(make_site: Callable[..., Site]) -> None:
    """Of many who ask first at once, all get the same backend, and their items all run."""
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
    gc.collect()
    assert reference() is None
