"""The app that several test modules run in processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..helpers import Script
from .shop import Shop


@pytest.fixture
def shop(tmp_path: Path, script: Callable[..., Script]) -> Shop:
    """No journal yet, and no process."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return Shop(folder, script)
