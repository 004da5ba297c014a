"""The app that child processes load in the tests, with what reaches from one process into the other.

Its task runs whatever function a test ships to it: by its code, and by what it encloses.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import io
import marshal
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

from flask import Flask

from flask_background import Background, Task, WorkItem, current_item

from .helpers import BOUND, until


class SharedEvent(threading.Event):
    """An event that processes share."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def set(self) -> None:
        self._path.touch()

    def is_set(self) -> bool:
        return self._path.exists()

    def wait(self, timeout: float | None = BOUND) -> bool:
        end = time.monotonic() + (BOUND if timeout is None else timeout)
        while not self.is_set() and time.monotonic() < end:
            time.sleep(0.002)
        return self.is_set()

    def __reduce__(self) -> Any:
        return SharedEvent, (self._path,)


class SharedList(list[Any]):
    """A list that other processes append literals to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def append(self, value: Any) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(f"{value!r}\n".encode())

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __getitem__(self, index: Any) -> Any:
        text = self._path.read_text() if self._path.exists() else ""
        return [ast.literal_eval(line) for line in text.splitlines()][index]

    def __len__(self) -> int:
        return len(self[:])

    def __eq__(self, other: object) -> bool:
        return bool(self[:] == other)

    def __reduce__(self) -> Any:
        return SharedList, (self._path,)


class _Shipper(pickle.Pickler):
    """Takes functions along that have no name to be found by."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, FunctionType) or "<" not in value.__qualname__:
            return NotImplemented
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        code = marshal.dumps(value.__code__)
        return _rebuild, (code, value.__module__, value.__defaults__, value.__kwdefaults__, cells)


def _rebuild(code: bytes, module: str, defaults: Any, kwdefaults: Any, cells: tuple[Any, ...]) -> Any:
    loaded: CodeType = marshal.loads(code)
    names = vars(importlib.import_module(module))
    function = FunctionType(loaded, names, loaded.co_name, defaults, tuple(map(CellType, cells)))
    function.__kwdefaults__ = kwdefaults
    return function


def ship(func: Callable[..., Any]) -> bytes:
    """A function as bytes."""
    file = io.BytesIO()
    _Shipper(file).dump(func)
    return file.getvalue()


def call(shipped: bytes, *args: Any, **kwargs: Any) -> Any:
    """Call a function that was shipped: the task of all these items."""
    return pickle.loads(shipped)(*args, **kwargs)


class Shipping:
    """A task that calls a function of the test in a child process."""

    def __init__(self, task: Task[..., Any], func: Callable[..., Any]) -> None:
        self._task = task
        self._func = func

    def enqueue(self, *args: Any, **kwargs: Any) -> WorkItem[Any]:
        """Hand a call over."""
        return self._task.enqueue(ship(self._func), *args, **kwargs)


def hold(gate: threading.Event, func: Callable[[], Any]) -> Any:
    """Do what func does, and then wait for the gate or for the token."""
    returned = func()
    until(lambda: gate.is_set() or current_item.token.cancelled)
    current_item.token.raise_if_cancelled()
    return returned


def hold_stubbornly(gate: threading.Event, func: Callable[[], Any]) -> Any:
    """Wait for the gate alone, whatever the token says, and then do what func does."""
    assert gate.wait(BOUND)
    return func()


# Tasks with a function of their own, which the tests of the executor use.


def pid() -> int:
    """Return the id of the process that runs this."""
    return os.getpid()


def segfault() -> None:
    """Die as a broken C extension does."""
    ctypes.string_at(0)


def hog(path: str) -> None:
    """Keep the GIL in one C call, so that no other thread of the child can do anything."""
    Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).usleep(30_000_000)


def eat(mebibytes: int) -> int:
    """Use that much memory."""
    return len(bytearray(mebibytes << 20))


def die_by(number: int) -> None:
    """End this process by a signal."""
    os.kill(os.getpid(), number)


def spin(path: str) -> None:
    """Never look at the token."""
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


def start_another(path: str) -> None:
    """Start a program, and never end."""
    program = subprocess.Popen(["sleep", "60"])
    Path(path).write_text(str(program.pid))
    program.wait()


def leave(status: int) -> None:
    """End this process at once."""
    os._exit(status)


TASKS: tuple[Callable[..., Any], ...] = (pid, segfault, hog, eat, die_by, spin, start_another, leave)


def add_tasks(background: Background, **options: Any) -> dict[str, Task[..., Any]]:
    """The named tasks on the executor "cpu", and ``shop.work``, which calls the functions it is given."""
    options = {"executor": "cpu", **options}
    tasks = {func.__name__: background.task(name=f"shop.{func.__name__}", **options)(func) for func in TASKS}
    tasks["work"] = background.task(name="shop.work", **options)(call)
    return tasks


def add_around(background: Background, notes: SharedList) -> None:
    """Note the beginning and the end of each run, and the process; an item of the name "broken" fails."""

    @background.around_item
    def around() -> Iterator[None]:
        notes.append(f"{os.getpid()} begins {current_item.attempt}")
        try:
            yield
        except BaseException as error:
            notes.append(f"{os.getpid()} {type(error).__name__}")
            raise
        notes.append(f"{os.getpid()} ends")
        if current_item.description == "broken":
            raise OSError("no database")


def create_app() -> Flask:
    """The app in the child. Its journal is the parent's, if that has one."""
    app = Flask("shop")
    app.config.from_prefixed_env()
    background = Background(app)
    if (notes := app.config.get("AROUND")) is not None:
        add_around(background, SharedList(Path(notes)))
    add_tasks(background)
    for name in ("shop.work", "shop.hold", "shop.stubborn"):  # durable ones need names of their own
        for number in range(10):
            background.task(name=f"{name}-{number}" if number else name)(call)
    importlib.import_module("tests.contracts.test_executors")  # now, so that no item's time goes by with it
    return app
