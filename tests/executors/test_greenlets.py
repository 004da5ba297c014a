"""Items under gevent, and processes that were patched in a way that items cannot live with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..helpers import Script
from ..under_gevent import pass_under_gevent

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

CONTRACT = "tests/contracts/test_executors.py"
ITEMS = "tests/executors/patched_greenlets.py"


def test_whatever_works_in_a_view() -> None:
    """Locks, logging, connections, programs, processes and event loops work in items as they do in views."""
    pass_under_gevent(ITEMS)


@pytest.mark.parametrize("items", ["not durable", "durable"])
def test_contract(items: str) -> None:
    """Functions on greenlets, and coroutines in the hub, keep what every executor promises."""
    kinds = "[thread or [asyncio or -thread or -asyncio or coroutine or returned or function_returns"
    pass_under_gevent(CONTRACT, "-k", f"({kinds}) and {items}")


@pytest.mark.parametrize(
    ("part", "lacking"),
    [
        ("socket", "open_connection"),  # its server would hold up the hub
        ("select", "multiprocessing"),  # gevent itself does not wait for children then
        ("subprocess", "program"),  # in views neither
        ("ssl", "nothing"),
    ],
)
def test_partial_patches(part: str, lacking: str) -> None:
    """Where gevent has left something out, items work as views do."""
    pass_under_gevent(ITEMS, "-k", f"not {lacking}", **{part: False})


@pytest.mark.parametrize(
    ("patch", "what"),
    [
        (
            "import eventlet; eventlet.monkey_patch()",
            "eventlet has patched this process, and Flask-Background does not work with it",
        ),
        (
            "from gevent import monkey; monkey.patch_all(thread=False)",
            "gevent has patched this process, but with thread=False: a lock",
        ),
        (
            "from gevent import monkey; monkey.patch_all(queue=False)",
            "gevent has patched this process, but with queue=False: a thread pool",
        ),
    ],
)
@pytest.mark.parametrize("patched", ["before", "after"])
def test_refused(script: Callable[..., Script], patch: str, what: str, patched: str) -> None:
    """A process whose items would stop the server is refused by name, at the latest at its first item."""
    program = script(
        "import warnings; warnings.simplefilter('ignore')\n",
        patch * (patched == "before") + "\n",
        "from flask import Flask\nfrom flask_background import Background\napp = Flask('shop')\n",
        "background = Background()\n" if patched == "before" else "background = Background(app)\n",
        patch * (patched == "after") + "\n",
        "background.init_app(app) if 'background' not in app.extensions else background.enqueue(print)\n",
    )
    assert program.ends() == 1
    assert f"ConfigurationError: {what}" in program.said
