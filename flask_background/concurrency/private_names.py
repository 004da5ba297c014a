"""Names that a library has and does not promise: each room that needs some lists them in ``PRIVATE_NAMES``.

A test looks each of them up, and fails by its name when a version lacks it. The room then does without, with
less grace.
"""

from __future__ import annotations

import importlib
from typing import Any


def find_private(name: str) -> Any:
    """What a dotted name stands for, as in "threading._register_atexit"; None if this version lacks it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
