"""An app whose items wait for the test, and a record of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from flask_background.testing import RecordedItems, record_items

from ..helpers import Site


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """An app whose items wait for the test."""
    return make_site(BACKGROUND_BACKEND="manual")


@pytest.fixture
def items(app: Flask) -> Iterator[RecordedItems]:
    """What the app enqueues."""
    with record_items(app) as items:
        yield items
