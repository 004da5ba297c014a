"""Conventions of the whole package: one module starts threads, and private names of others exist."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_background
from flask_background.concurrency.private_names import find_private

PACKAGE = Path(flask_background.__file__).parent
#: The one module that starts threads.
STARTER = "concurrency/native.py"
#: This module names a class that starts threads, to know its code in a frame, and makes no object of it.
COMPARES = "hosts/gunicorn_signals.py"
#: Names that start threads, of whatever object and by whatever name they were imported.
STARTS = {
    "Thread",
    "Timer",  # threading's; a module of the package has one, too
    "start_new_thread",
    "start_new",
    "start_joinable_thread",
    "ThreadPoolExecutor",
    "ThreadPool",
    "to_thread",
    "run_in_executor",
}
#: One of these words is in the source of every module that starts threads; to parse all modules takes long.
WORDS = STARTS | {"_thread"}
THREADING = {"threading", "_thread", "concurrent.futures", "multiprocessing.pool", "multiprocessing.dummy"}


def modules() -> Iterator[str]:
    """The names of all modules of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def starts_of(source: str) -> list[str]:
    """The lines in which a module makes threads itself, each with the name that it uses."""
    tree = ast.parse(source)
    threading = {"threading", "_thread"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            threading |= {name.asname for name in node.names if name.asname and name.name in THREADING}
        elif isinstance(node, ast.ImportFrom) and node.module in THREADING:
            found += [f"{node.lineno}: {name.name}" for name in node.names if name.name in STARTS]
        elif isinstance(node, ast.Attribute) and node.attr in STARTS:
            if node.attr == "Timer" and not (isinstance(node.value, ast.Name) and node.value.id in threading):
                continue
            found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.Constant) and node.value in STARTS - {"Thread", "Timer"}:
            found.append(f"{node.lineno}: {node.value!r}")
    return found


def test_one_module_starts_threads() -> None:
    """Only that module starts threads, so all are daemons and begin in an empty context."""
    found = {
        str(path.relative_to(PACKAGE)): starts
        for path in PACKAGE.rglob("*.py")
        if any(word in (source := path.read_text()) for word in WORDS) and (starts := starts_of(source))
    }
    assert found.keys() == {STARTER, COMPARES}, found


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nthreading.Thread(target=print).start()",
        "import threading as t\nt.Timer(1, print).start()",
        "from threading import Thread as T",
        "import _thread\n_thread.start_new_thread(print, ())",
        "from concurrent.futures import ThreadPoolExecutor",
        "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor()",
        "async def f(): await asyncio.to_thread(print)",
        "loop.run_in_executor(None, print)",
        "original('_thread', 'start_new_thread')(print, ())",
        "from multiprocessing.pool import ThreadPool",
    ],
)
def test_starts_are_found(source: str) -> None:
    """The search finds each way in which a thread can be started."""
    assert starts_of(source)


def private_names() -> list[tuple[str, str]]:
    """The private names of others that the modules list, each with its module."""
    return [
        (module, name)
        for module in modules()
        # These rooms need other libraries, which the quick tests do without.
        if not module.startswith(("flask_background.celery", "flask_background.contrib"))
        for name in getattr(importlib.import_module(module), "PRIVATE_NAMES", ())
    ]


@pytest.mark.parametrize(("module", "name"), private_names())
def test_private_name_is_there(module: str, name: str) -> None:
    """The installed version has the private name. Without it, the module works with less grace."""
    assert find_private(name) is not None


def test_private_name_that_is_gone() -> None:
    """A name that a version lacks, or whose module it lacks, is None."""
    assert find_private("threading._no_such_name") is None
    assert find_private("no_such_module.name") is None
