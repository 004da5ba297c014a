"""The pytest plugin of Flask-Background: fixtures on top of the ``app`` fixture of the suite.

This module stands beside the package: pytest imports it in every suite on the machine, and a module of the
package would import Flask.

PYTEST_DONT_REWRITE: this module has no assertion.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.options import DefaultBackend
    from flask_background.testing import RecordedItems

_items = pytest.StashKey["RecordedItems"]()


@pytest.fixture
def background_items(app: Flask, request: pytest.FixtureRequest) -> Generator[RecordedItems]:
    """Record the items of the fixture ``app``. Items wait until ``flask_background.testing.run_items()``."""
    yield from _record(app, request, "manual")


@pytest.fixture
def background_inline(app: Flask, request: pytest.FixtureRequest) -> Generator[RecordedItems]:
    """Record the items of the fixture ``app``. Items run inside ``enqueue``."""
    yield from _record(app, request, "immediate")


def _record(app: Flask, request: pytest.FixtureRequest, backend: DefaultBackend) -> Generator[RecordedItems]:
    from flask_background.testing import record_items, stopping_apps, use_backend

    with stopping_apps(), use_backend(app, backend), record_items(app) as items:
        request.node.stash[_items] = items
        yield items


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose items failed, and tell with a failed test what it has enqueued."""
    try:
        result = yield
        if _items in item.stash:
            item.stash[_items].check_failures()
    except BaseException:
        if _items in item.stash:
            items = item.stash[_items]
            try:
                items.check_failures()
                failed = ""
            except AssertionError as error:
                failed = f"\n{error}"
            item.add_report_section("call", "background items", f"{items}{failed}")
        raise
    return result
