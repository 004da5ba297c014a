"""The memory of a child process: limited, and looked at after each item."""

from __future__ import annotations

import gc
import mmap
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

# What is kept for the report that an item has used up all memory, in bytes: on Python 3.13 even a call of a
# function may need memory that is not there.
_RESERVE = 2 * _MIB

_limit: float | None = None
_in_use_at_start = 0
_reserve: mmap.mmap | None = None


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


def set_reserve_aside() -> None:
    """Keep some of a limited memory for the report that an item has left none, if there is some."""
    global _reserve
    if _limit is not None and _reserve is None:
        with suppress(OSError):
            _reserve = mmap.mmap(-1, _RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def release_reserve() -> None:
    """Give back what was set aside. Needs no memory."""
    global _reserve
    if _reserve is not None:
        _reserve.close()
        _reserve = None


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
