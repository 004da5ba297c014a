"""The start of an app: the items that an earlier process left run without a request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background.app_state import state_of

from ..helpers import BOUND, Site


@pytest.fixture
def leave(make_site: Callable[..., Site], tmp_path: Path) -> Callable[..., Site]:
    """Leaves an item of the task "work", and returns an app with its journal and these settings."""

    def leave(**settings: Any) -> Site:
        journal = str(tmp_path / "journal")
        before = make_site(BACKGROUND_JOURNAL=journal, BACKGROUND_RUN_IN_WEB=False)
        before.background.task(durable=True, name="work")(print).enqueue()
        assert before.background.stop(0) == []
        return make_site(BACKGROUND_JOURNAL=journal, **settings)

    return leave


def test_start(leave: Callable[..., Site]) -> None:
    """``start`` runs what was left, and a second call does nothing."""
    site = leave()
    ran = threading.Event()
    site.background.task(durable=True, name="work")(ran.set)
    for _ in range(2):
        site.background.start()
    assert ran.wait(BOUND)


def test_start_before_there_is_a_task(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """An app without durable tasks has nothing to start, and starts when it has them."""
    site = make_site(BACKGROUND_JOURNAL=str(tmp_path / "journal"))
    site.background.start()
    assert not (tmp_path / "journal").exists()
    ran = threading.Event()
    site.background.periodic(seconds=0.05, name="tick")(ran.set)
    site.background.start()
    assert ran.wait(BOUND)


def test_start_in_a_child_process(leave: Callable[..., Site]) -> None:
    """A child process that loads a script which calls ``start`` leaves all items to others."""
    site = leave()
    state = state_of(site.app)
    state.holds_items = False
    site.background.start()
    assert state._journal.made is None


@pytest.mark.parametrize("testing", [True, False])
def test_server(leave: Callable[..., Site], testing: bool) -> None:
    """A server that serves starts the app, unless the app is being tested."""
    site = leave(TESTING=testing)
    ran = threading.Event()
    site.background.task(durable=True, name="work")(ran.set)
    state = state_of(site.app)
    state.server_started()
    assert (state._journal.made is None) is testing
    assert testing or ran.wait(BOUND)


def test_app_that_is_gone(leave: Callable[..., Site]) -> None:
    """An app that was thrown away before its server served is not started."""
    site = leave()
    state = state_of(site.app)
    del site
    state.server_started()
    assert state._journal.made is None
