"""Messages through pipes: whole, in order, however large."""

from __future__ import annotations

import os
import pickle
import struct
import threading
import zlib
from collections.abc import Iterator

import pytest

from flask_background.executors.processes.messages import (
    Call,
    CancelledSelf,
    Logged,
    ProgressReported,
    RunEnded,
    Setup,
    Started,
    TokenFired,
)
from flask_background.executors.processes.pipes import NoMessage, Pipes

from ...helpers import BOUND, until


@pytest.fixture
def ends() -> Iterator[tuple[Pipes, Pipes]]:
    """The end of a child, and that of its parent, which waits here for what it reads."""
    first, second = os.pipe(), os.pipe()
    here, there = Pipes(first[0], second[1]), Pipes(second[0], first[1], is_parent=True)
    os.set_blocking(there.inbound, True)
    yield here, there
    here.close()
    there.close()


def test_messages(ends: tuple[Pipes, Pipes]) -> None:
    """Messages are received as the kind that was sent, in the same order, also when they are read at once."""
    here, there = ends
    sent = [
        Started(None),
        ProgressReported(1, float("inf"), "h\ud800lf"),
        CancelledSelf(),
        Logged("shop", 20, "text", "", "", 1.5, "shop.py", 1, "work", "Main"),
        RunEnded("succeeded", b"\x80", "", ""),
        RunEnded("succeeded", b"", "", ""),
        RunEnded("failed", None, "text", "trace", True),
        *(RunEnded("succeeded", None, "", "", False, value) for value in (None, "x", 1, 1.5, True)),
    ]
    for message in sent:
        here.send(message)
    received = [there.receive()]
    while (message := there.take()) is not None:
        received.append(message)
    assert received == sent
    assert [type(message) for message in received] == [type(message) for message in sent]


def test_messages_to_a_child(ends: tuple[Pipes, Pipes]) -> None:
    """A child receives what its parent has sent."""
    here, there = ends
    sent = [
        Setup("shop:app", 10, None, {"shop": 20}),
        Call(
            "work", "children", "a1", 1, 1.5, 2.5, ("GET", {"user": 1}), None, None, None, b"\x80", [], None
        ),
        TokenFired("timeout", 0.5),
    ]
    for message in sent:
        there.send(message)
    assert [here.receive() for _ in sent] == sent


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
    """Bytes that find no room are left for later, and nothing is seen of an incomplete message."""
    first, second = os.pipe(), os.pipe()
    child, parent = Pipes(first[0], second[1]), Pipes(second[0], first[1], is_parent=True)
    large, small = Setup("x" * 300_000, 0, None, {}), TokenFired("timeout", None)
    for message in (large, small):
        parent.send(message)
    assert parent.is_sending
    child.read()
    assert child.take() is None
    received = []
    while len(received) < 2:
        parent.send_more()
        child.read()
        while (got := child.take()) is not None:
            received.append(got)
    assert received == [large, small]
    assert not parent.is_sending
    child.close()
    parent.close()


def forge(text: bytes, rest: bytes = b"") -> bytes:
    """A message to a parent with this JSON in it."""
    body = struct.pack("!I", len(text)) + text + rest
    return struct.pack("!4sQI", b"\xf5FB1", len(body), zlib.crc32(body)) + body


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'[4, "1", null, null]', "fields of ProgressReported are of the types str, "),
        (b'[7, ["succeeded"], null, "", "", false, null]', "RunEnded are of the types list, "),
        (b'[7, "succeeded", null, {}, "", false, null]', "RunEnded are of the types str, NoneType, dict, "),
        (b'[7, "succeeded", null, "", "", 1, null]', "RunEnded are of the types .*, int, NoneType"),
        (b'[7, "succeeded", null, "", "", false, [1]]', "RunEnded are of the types .*, bool, list"),
        (b'[7, "succeeded", true, "", ""]', "RunEnded are of the types str, bytes, str, str$"),
        (b'[5, "shop", 10.5, "", "", "", 1.0, "", 1, "", ""]', "Logged are of the types str, float, "),
        (b"[4, 1, null, null] [7]", "goes on"),
        (b"[99]", "out of range"),
        (b'["x"]', "indices"),
        (b"[]", "not enough values"),
        (b"7", "unpack"),
        (b"[" * 100_000, "recursion"),
        (b"[4, 1" + b"0" * 5000 + b", null, null]", "digits"),
        (b"\xff", "decode"),
        (b"", "Expecting value"),
    ],
)
def test_made_up_messages(ends: tuple[Pipes, Pipes], text: bytes, why: str) -> None:
    """Nothing is done with what a child makes up: its parent takes it for no message."""
    here, there = ends
    os.write(here.outbound, forge(text[:60_000]))
    with pytest.raises(NoMessage, match=f"cannot be read: .*{why}"):
        there.receive()


def test_pickle_to_a_parent(ends: tuple[Pipes, Pipes]) -> None:
    """A parent does not read a pickle as a message."""
    here, there = ends
    os.write(here.outbound, forge(pickle.dumps((7, "succeeded", None, "", "", False))))
    with pytest.raises(NoMessage):
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
