"""The item, as every queue runs it: it tells that it ran, and does nothing else."""

from __future__ import annotations

import os
import select
from functools import cache
from pathlib import Path
from time import monotonic


def tell(fifo: str) -> None:
    """Write one byte. Where a queue forks for each item, the FIFO is opened each time."""
    os.write(_opened(fifo), b".")


@cache
def _opened(fifo: str) -> int:
    return os.open(fifo, os.O_WRONLY)


class Told:
    """The other end of the FIFO: counts the items that ran."""

    def __init__(self, folder: Path) -> None:
        self.fifo = str(folder / "told")
        os.mkfifo(self.fifo)
        self._descriptor = os.open(self.fifo, os.O_RDWR)  # so that it never ends

    def wait(self, count: int, timeout: float) -> None:
        """Wait until so many more ran. Raises TimeoutError."""
        end = monotonic() + timeout
        while count:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - monotonic()))
            if not ready:
                raise TimeoutError(f"{count} items did not run within {timeout:g} s")
            count -= len(os.read(self._descriptor, count))

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)
