"""Estimates of the memory that results take."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from flask_background.core.odd_errors import best_effort

#: Types whose size needs no estimate.
SMALL = frozenset({type(None), bool, int, float})
# How many objects are examined, and how many members of one container, from which the others are estimated.
_OBJECTS = 200
_MEMBERS = 20


def size_of(value: Any) -> int:
    """Return about how many bytes value takes, members included: quick for any value. Raises nothing."""
    if type(value) is str or type(value) is bytes:
        return sys.getsizeof(value)
    total = 0.0
    waiting: deque[tuple[Any, float]] = deque([(value, 1.0)])
    seen: set[int] = set()
    for _ in range(_OBJECTS):
        if not waiting:
            break
        this, times = waiting.popleft()
        if id(this) in seen:
            continue
        seen.add(id(this))
        with best_effort():  # the class of an object defines its size and its members, and may raise
            total += times * max(sys.getsizeof(this), getattr(this, "nbytes", 0))
            count, members = _members_of(this)
            looked_at = list(islice(members, _MEMBERS))
            share = times * max(1.0, count / max(1, len(looked_at)))
            waiting.extend((member, share) for member in looked_at)
    return int(total)


def _members_of(value: Any) -> tuple[int, Iterator[Any]]:
    """Return the number of an object's members, and an iterator of them; a dict has two for each key."""
    kind = type(value)
    if kind is str or kind is bytes or isinstance(value, type):
        return 0, iter(())
    if isinstance(value, Mapping):
        return 2 * len(value), (member for pair in value.items() for member in pair)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return len(value), iter(value)
    if isinstance(value, BaseException):
        return len(value.args), iter(value.args)
    held = getattr(value, "__dict__", None)
    return (1, iter((held,))) if isinstance(held, dict) else (0, iter(()))
