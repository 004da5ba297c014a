"""Private names of other libraries: each module that needs some lists them in ``PRIVATE_NAMES``.

A test looks each of them up, and fails by name when a version lacks it. The module then works without it,
with less grace.
"""

from __future__ import annotations

import importlib
from typing import Any


def find_private(name: str) -> Any:
    """Return the object of a dotted name such as "threading._register_atexit"; None if it does not exist."""
    owner, _, attribute = name.rpartition(".")
    found: Any
    try:
        found = importlib.import_module(owner)
    except ImportError:  # perhaps a class in a module
        found = find_private(owner) if "." in owner else None
    return getattr(found, attribute, None)
