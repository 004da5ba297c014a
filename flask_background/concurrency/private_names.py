"""Private names of other libraries: each module that needs some lists them in ``PRIVATE_NAMES``.

A test looks each of them up, and fails by name when a version lacks it. The module then works without it,
with less grace.
"""

from __future__ import annotations

import importlib
from typing import Any


def find_private(name: str) -> Any:
    """Return the object of a dotted name such as "threading._register_atexit"; None if it does not exist."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
