"""Messages through pipes: whole, in order, however large."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Iterator

import pytest

from flask_background.executors.processes.messages import (
    CancelledSelf,
    Logged,
    ProgressReported,
    RunEnded,
    Started,
    TokenFired,
)
from flask_background.executors.processes.pipes import NoMessage, Pipes

from ...helpers import BOUND, until


@pytest.fixture
def ends() -> Iterator[tuple[Pipes, Pipes]]:
    """Both ends."""
    first, second = os.pipe(), os.pipe()
    here, there = Pipes(first[0], second[1]), Pipes(second[0], first[1])
    yield here, there
    here.close()
    there.close()


def test_messages(ends: tuple[Pipes, Pipes]) -> None:
    """What is sent is received, as the same kind, in the same order, also when it was read at once."""
    here, there = ends
    sent = [Started(None), ProgressReported(1, 2, "half"), CancelledSelf(), TokenFired("timeout", 0.5)]
    for message in sent:
        here.send(message)
    received = [there.receive()]
    while (message := there.take()) is not None:
        received.append(message)
    assert received == sent
    assert [type(message) for message in received] == [type(message) for message in sent]


def test_large_message(ends: tuple[Pipes, Pipes]) -> None:
    """A message may be larger than a pipe holds; others from other threads do not come between its parts."""
    here, there = ends
    large = RunEnded("succeeded", os.urandom(3_000_000), "", "")
    threads = [threading.Thread(target=here.send, args=(large,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert [there.receive() for _ in threads] == [large] * 3
    for thread in threads:
        thread.join(BOUND)


@pytest.mark.parametrize(
    "garbage",
    [
        b"printed by mistake\n",
        b"\n",
        bytes(3),
        bytes(4000),
        b"\xf5FB1" + b"\xff" * 12,
        b"\xf5FB1" + bytes(12),
    ],
)
def test_bytes_that_are_no_message(ends: tuple[Pipes, Pipes], garbage: bytes) -> None:
    """They are noticed at once, or with the next message: nobody waits for what they seem to announce."""
    here, there = ends
    os.write(here.outbound, garbage)
    here.send(CancelledSelf())
    with pytest.raises(NoMessage):
        there.receive()


def test_bytes_inside_a_message(ends: tuple[Pipes, Pipes]) -> None:
    """A message that other bytes have come into is no message."""
    here, there = ends
    here.send(ProgressReported(1, 2, "half"))
    whole = os.read(there.inbound, 1000)
    os.write(here.outbound, whole[:-5] + b"oops" + whole[-5:])
    with pytest.raises(NoMessage):
        there.receive()


def test_end(ends: tuple[Pipes, Pipes]) -> None:
    """When one side closes, the other one reads what there is, and then comes to the end; twice is once."""
    here, there = ends
    here.send(CancelledSelf())
    here.close()
    here.close()
    assert there.receive() == CancelledSelf()
    with pytest.raises(EOFError):
        there.receive()
    with pytest.raises(BrokenPipeError):
        there.send(CancelledSelf())


def test_end_that_does_not_block() -> None:
    """What finds no room is left for later, and of a message that is not complete nothing is seen."""
    first, second = os.pipe(), os.pipe()
    here, there = Pipes(first[0], second[1], blocking=False), Pipes(second[0], first[1], blocking=False)
    large = RunEnded("succeeded", os.urandom(300_000), "", "")
    for message in (large, CancelledSelf()):
        here.send(message)
    assert here.is_sending
    there.read()
    assert there.take() is None
    received = []
    while len(received) < 2:
        here.send_more()
        there.read()
        while (got := there.take()) is not None:
            received.append(got)
    assert received == [large, CancelledSelf()]
    assert not here.is_sending
    here.close()
    there.close()


@pytest.mark.parametrize(
    "message",
    [
        ProgressReported("1", None, None),  # type: ignore[arg-type]
        RunEnded("succeeded", 10**12, "", ""),  # type: ignore[arg-type]
        RunEnded(["succeeded"], None, "", ""),  # type: ignore[arg-type]
        RunEnded("succeeded", None, datetime.timedelta(), ""),  # type: ignore[arg-type]
        Logged("shop", 10.5, "", "", "", 1.0, "", 1, "", ""),  # type: ignore[arg-type]
    ],
)
def test_fields_of_other_types(
    ends: tuple[Pipes, Pipes], message: ProgressReported | RunEnded | Logged
) -> None:
    """A message whose fields are of other types is none: nothing is done with what a child makes up."""
    here, there = ends
    here.send(message)
    with pytest.raises(NoMessage, match="cannot be read: a field is of the type"):
        there.receive()


def test_patience(ends: tuple[Pipes, Pipes]) -> None:
    """A thread need not wait for a message that another one does not get rid of."""
    here, there = ends
    large = RunEnded("succeeded", bytes(3_000_000), "", "")
    thread = threading.Thread(target=here.send, args=(large,))
    thread.start()
    until(lambda: here.is_sending)
    with pytest.raises(TimeoutError):
        here.send(CancelledSelf(), 0.01)
    assert there.receive() == large
    thread.join(BOUND)
    here.send(CancelledSelf(), 0.01)
    assert there.receive() == CancelledSelf()
