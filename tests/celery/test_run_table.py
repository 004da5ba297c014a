"""The table of runs, which the processes of a worker share."""

from __future__ import annotations

import os
import signal

import pytest

from flask_background.celery.records.base import RunId
from flask_background.celery.worker.run_table import RunTable

HOME = "ü" * 100
RUN = RunId("0" * 24, "1" * 16)


def test_rows() -> None:
    """A row says whose run it is, whatever the app is called, and is free again after the run."""
    table = RunTable(["shop", HOME])
    numbers = [table.begin(RUN, home) for home in ("shop", HOME)]
    assert [(row.run, row.home, row.pid) for row in table.rows()] == [
        (RUN, home, os.getpid()) for home in ("shop", HOME)
    ]
    table.end(numbers[0])
    assert [row.number for row in table.rows()] == [numbers[1]]
    assert table.begin(RUN, HOME) == numbers[0]
    table.close()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_dead_process() -> None:
    """A run is dead once its process is, and that is said once; a run of a process that lives is not."""
    table = RunTable([HOME])
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        table.begin(RUN, HOME)
        os.write(writer, b"1")
        signal.pause()
    try:
        os.read(reader, 1)
        (row,) = table.rows()
        assert row.pid == pid
        assert not table.is_dead(row)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert table.is_dead(row)
    assert not table.is_dead(row)
    assert not list(table.rows())
    table.close()
    os.close(reader)
    os.close(writer)
