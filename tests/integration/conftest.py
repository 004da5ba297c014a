"""Which gunicorns the tests run against."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

OLDEST = Path(sys.prefix) / "gunicorn-22.0"


@pytest.fixture(params=["newest", "22.0"])
def gunicorn_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for the gunicorn that is installed, and for the oldest that is supported."""
    if request.param == "newest":
        return {}
    if not OLDEST.exists():
        pytest.fail(f"gunicorn 22.0 is not in {OLDEST}: `make test` installs it")
    return {"FIRST_ON_PATH": str(OLDEST)}


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker_class(request: pytest.FixtureRequest) -> str:
    """Each kind of worker that is supported."""
    kind: str = request.param
    return kind
