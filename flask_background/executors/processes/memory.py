"""The memory of a child process: limited, and looked at after each item."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

from flask_background.core.odd_errors import with_causes

_MIB = 1 << 20
# A child that has so much of its limit in use after an item is replaced: the next item is to have a chance.
_NEARLY_ALL = 0.9
# So is one in which an item found no memory, and that keeps so much of its limit since the app was loaded.
_NOTABLY_MORE = 0.1

_limit: float | None = None
_in_use_at_start = 0


def limit_memory(mebibytes: int) -> None:
    """Limit what this process writes to, not what it maps: threads and libraries map much unused memory."""
    global _limit
    _limit = size = mebibytes * _MIB
    which = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def note_start() -> None:
    """Note how much memory the loaded app takes."""
    global _in_use_at_start
    _in_use_at_start = _in_use()


def is_used_up(error: BaseException | None, result: bytes | None) -> bool:
    """Return whether items have left this process hardly any memory.

    Its last item ended with this error, or with this result: the message, and as much for the value.
    """
    if _limit is None:
        return False
    if error is not None and any(isinstance(one, MemoryError) for one in with_causes(error)):
        gc.collect()
        return _in_use() - _in_use_at_start > _NOTABLY_MORE * _limit
    return _in_use() - 2 * len(result or b"") > _NEARLY_ALL * _limit


def _in_use() -> int:
    """Return the bytes that count against the limit; 0 where the system does not tell."""
    with suppress(OSError, MemoryError):
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    return 0
