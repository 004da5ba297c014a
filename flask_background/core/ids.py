"""The ids of items. One call for random bytes makes many ids, because each such call gives up the GIL."""

from __future__ import annotations

import os

#: Ids that no item has yet.
unused_ids: list[str] = []


def make_ids() -> str:
    """Add ids to ``unused_ids``, and return one more. Several threads may call this at the same time."""
    random = os.urandom(12 * 256).hex()
    first, *others = [random[start : start + 24] for start in range(0, len(random), 24)]
    unused_ids.extend(others)
    return first


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unused_ids.clear)  # otherwise parent and child would use the same ids
