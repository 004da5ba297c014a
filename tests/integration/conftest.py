"""Which gunicorns the tests run against, and in which combinations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..helpers import FULL

WORKERS = ("sync", "gthread", "gevent")
GUNICORNS = ("newest", "22.0")
OLDEST = Path(sys.prefix) / "gunicorn-22.0"


@pytest.fixture(params=GUNICORNS)
def gunicorn_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for the gunicorn that is installed, and for the oldest that is supported."""
    if request.param == "newest":
        return {}
    if not OLDEST.exists():
        pytest.fail(f"gunicorn 22.0 is not in {OLDEST}: `make test` installs it")
    return {"FIRST_ON_PATH": str(OLDEST)}


@pytest.fixture(params=WORKERS)
def worker_class(request: pytest.FixtureRequest) -> str:
    """Each kind of worker that is supported."""
    kind: str = request.param
    return kind


# Another number for each test and way of stopping.
_turns: dict[tuple[str, object], int] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of all combinations those in which every pair of values occurs; ``make faults`` tries all."""
    if FULL or any("::" in name for name in config.args):
        return
    left_out = [item for item in items if item.path.parent == Path(__file__).parent and not _is_needed(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_needed(item: pytest.Item) -> bool:
    """Whether a test is run: each combination of the other parameters gets one gunicorn, in turn."""
    callspec = getattr(item, "callspec", None)
    values = {} if callspec is None else callspec.params
    if "worker_class" not in values or "gunicorn_env" not in values:
        return True
    worker = WORKERS.index(values["worker_class"])
    turn = _turns.setdefault((item.originalname, values.get("stop")), len(_turns))
    if GUNICORNS.index(values["gunicorn_env"]) != (turn + worker) % 2:
        return False
    return "preload" not in values or values["preload"] == bool((turn + (worker > 0)) % 2)
