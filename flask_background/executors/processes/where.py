"""Where a child is: the stacks of its threads, asked for before the child is killed.

CPython's ``faulthandler`` answers a signal in C, so it answers too while code of an item holds the GIL. The
answer comes through a pipe of its own. A crash (a segmentation fault, for example) writes the stacks there as
well, unless the app has enabled faulthandler itself.
"""

from __future__ import annotations

import faulthandler
import os
import re
import select
import signal
import time
from pathlib import Path

from flask_background.concurrency import native

# The signal that asks a child. Real-time signals are hardly used; systems without them have SIGUSR2.
ASKS = getattr(signal, "SIGRTMAX", signal.SIGUSR2)

# After how much silence the answer is complete, in seconds.
_QUIET = 0.03
_LONGEST = 1 << 16
_MOST_LINES = 60
# Lines of faulthandler. Whatever else is in the pipe was written there by mistake.
_LINE = re.compile(
    r'(?:(?:Current thread|Thread) 0x[0-9a-f]+ .*|  File ".*", line \d+ in .*|  \.\.\.'
    r"|Fatal Python error: [\w ]+|)"
)
_OUR_FOLDER = str(Path(__file__).parents[2])


def answer_through(pipe: int) -> None:
    """Answer from now on, in this process, through a pipe that does not block."""
    faulthandler.register(ASKS, file=pipe)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASKS})
    if not faulthandler.is_enabled():
        faulthandler.enable(file=pipe)


def read_answer(pipe: int, until: float) -> str:
    """Return the answer in the pipe; empty if none comes until then (``time.monotonic()``)."""
    poll = native.new_poll()
    poll.register(pipe, select.POLLIN)
    found = bytearray()
    while len(found) < _LONGEST:
        left = _QUIET if found else until - time.monotonic()
        if not poll.poll(max(0.0, left) * 1e3):
            break
        if not (data := os.read(pipe, _LONGEST)):
            break
        found += data
    return _readable(found.decode("ascii", "replace"))


def _readable(answer: str) -> str:
    """Return the stacks without those of our idle threads; the main thread's, which runs the item, first."""
    blocks: list[list[str]] = [[]]
    for line in answer.splitlines():
        if not line:
            blocks.append([])
        elif _LINE.fullmatch(line):
            blocks[-1].append(line)
    main = [_without_our_callers(block) for block in blocks if "child_main.py" in "".join(block)]
    blocks = [block for block in blocks if "child_main.py" not in "".join(block)]
    others = [block for block in blocks if not _is_ours(block)]
    lines = [line for block in (*main, *others) for line in block]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = ["  ..."]
    return "\n".join(lines)


def _without_our_callers(block: list[str]) -> list[str]:
    """Return the main thread's stack without the frames of this package that have called the item."""
    end = len(block)
    while end > 2 and block[end - 1].startswith((f'  File "{_OUR_FOLDER}', '  File "<string>"')):
        end -= 1
    return block[:end]


def _is_ours(block: list[str]) -> bool:
    """Return whether a thread is in code of this package, and not in code of the app that we call."""
    innermost = next((line for line in block if line.startswith("  File ")), "")
    return innermost.startswith(f'  File "{_OUR_FOLDER}')
