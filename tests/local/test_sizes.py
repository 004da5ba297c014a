"""Estimates of the sizes of results: about right, and quick for any result."""

from __future__ import annotations

import array
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flask_background.local.sizes import size_of

from ..helpers import slack

MB = 1 << 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"x" * MB,
        lambda: "x" * MB,
        lambda: bytearray(MB),
        lambda: array.array("b", bytes(MB)),
        lambda: io.BytesIO(b"x" * MB),
        lambda: [f"{number:1000}" for number in range(1000)],
        lambda: tuple(f"{number:1000}" for number in range(1000)),
        lambda: {f"{number}": f"{number:1000}" for number in range(1000)},
        lambda: OrderedDict(pages=[{"text": f"{number:10000}"} for number in range(100)]),
        lambda: SimpleNamespace(text="x" * MB),
        lambda: ValueError("x" * MB),
        lambda: [SimpleNamespace(text=f"{number:10000}") for number in range(100)],
    ],
)
def test_about_a_megabyte(make: Callable[[], Any]) -> None:
    """A value of a megabyte is estimated at about that."""
    assert 0.5 * MB < size_of(make()) < 3 * MB


@pytest.mark.parametrize("value", [None, 1, "text", b"", [], {}, (1, 2), object(), ValueError("x"), MB, int])
def test_small(value: Any) -> None:
    """Small values have small estimates."""
    assert size_of(value) < 2_000


class Odd:
    """An object whose every method raises."""

    def __sizeof__(self) -> int:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt if name == "nbytes" else RuntimeError


def test_odd_and_endless() -> None:
    """Objects that raise, contain themselves, or are huge are estimated quickly, without an error."""
    endless: list[Any] = [Odd()]
    endless.append(endless)
    many = [[number] for number in range(30_000)]
    before = time.perf_counter()
    assert size_of(endless) < 2_000
    assert size_of(many) > MB
    assert size_of(range(10**9)) < 2_000
    assert time.perf_counter() - before < 1 + slack()
