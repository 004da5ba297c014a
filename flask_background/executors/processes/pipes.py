"""Messages between a process and its child, through two pipes.

A child reads pickles, since it trusts its parent. The parent reads JSON, with a pickled outcome of a run
behind it as it is: reading that cannot run code, whatever a child has been made to send.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import struct
import termios
import zlib
from itertools import product
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from flask_background.concurrency import native
from flask_background.executors.processes.messages import (
    Call,
    CancelledSelf,
    Logged,
    Message,
    ProgressReported,
    RunEnded,
    Setup,
    Started,
    TokenFired,
)

# A message is sent as a plain tuple with the number of its kind: pickling its class would cost ten times as
# much.
_KINDS: tuple[type[Message], ...] = (
    Setup,
    Started,
    Call,
    TokenFired,
    ProgressReported,
    Logged,
    CancelledSelf,
    RunEnded,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def _types_of(hint: Any) -> tuple[type, ...]:
    """Return the types of the values for which this annotation stands."""
    if isinstance(hint, UnionType):
        return tuple(each for one in get_args(hint) for each in _types_of(one))
    if hint is float:
        return int, float
    return (NoneType if hint is None else get_origin(hint) or hint,)


def _shapes_of(kind: type[Message]) -> frozenset[tuple[type, ...]]:
    """Return the types that the fields of a message may have together."""
    return frozenset(product(*map(_types_of, get_type_hints(kind).values())))


# A child may be made to send anything.
_SHAPES = [_shapes_of(kind) for kind in _KINDS]
# Where the bytes are in the list of a RunEnded's number and fields.
_PICKLED = 1 + RunEnded._fields.index("pickled")
# Before each message: a mark, its length and its checksum. What an item writes into the pipe by mistake has
# neither, and must not be taken for the length of a message that never comes to its end.
_MARK = b"\xf5FB1"
_HEAD = struct.Struct("!4sQI")
_HEAD_SIZE = _HEAD.size
# At the beginning of a message to the parent: the length of its JSON.
_LENGTH = struct.Struct("!I")
_LENGTH_SIZE = _LENGTH.size
_CHUNK = 1 << 16
# Made once: the functions of the json module make what they need for each call.
_write_json = json.JSONEncoder().encode
_read_json = json.JSONDecoder().raw_decode
# The largest message, in bytes: what a child is made to say must not take all memory of its parent.
_LARGEST = 1 << 30


class NoMessage(Exception):
    """The other side has written what is no message, or one that is too large."""


class Pipes:
    """One end of two pipes: that of a child, or of the parent (``is_parent``), which does not block.

    In a child any thread may send, and one receives; in the parent one thread does both.
    """

    def __init__(self, inbound: int, outbound: int, *, is_parent: bool = False) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self._lock = native.new_lock()
        self._buffer = bytearray()
        self._unsent: list[bytes | memoryview] = []
        self._dump, self._load = (_to_child, _from_child) if is_parent else (_to_parent, _from_parent)
        os.set_blocking(inbound, not is_parent)
        os.set_blocking(outbound, not is_parent)

    @property
    def is_sending(self) -> bool:
        """Whether part of a message has not been written yet."""
        return bool(self._unsent)

    @property
    def is_unread(self) -> bool:
        """Whether the other side has unread messages."""
        if self._unsent:
            return True
        left = bytearray(struct.calcsize("i"))
        try:
            fcntl.ioctl(self.outbound, termios.FIONREAD, left)
        except OSError:  # some systems cannot tell
            return False
        return any(left)

    def send(self, message: Message, patience: float = -1) -> None:
        """Send a message to the other side. Raises OSError if that side has ended.

        Another thread may be sending: waits for that up to ``patience`` seconds (-1: no limit), and then
        raises TimeoutError.

        In the parent, bytes that find no room are left for ``send_more``.
        """
        body = self._dump(message)
        if len(body) > _LARGEST:
            raise MemoryError(f"a message of {len(body)} bytes; allowed are {_LARGEST}")
        head = _HEAD.pack(_MARK, len(body), zlib.crc32(body))
        # A small message is written at once; a large one is not copied for that.
        parts = (head, body) if len(body) > _CHUNK else (head + body,)
        if not self._lock.acquire(timeout=patience):
            raise TimeoutError
        try:
            self._unsent += parts
            self.send_more()
        finally:
            self._lock.release()

    def send_more(self) -> None:
        """Write the rest of a message, as far as possible."""
        unsent = self._unsent
        try:
            while unsent:
                part = unsent[0]
                written = os.write(self.outbound, part)
                if written == len(part):
                    del unsent[0]
                else:
                    unsent[0] = memoryview(part)[written:]
        except BlockingIOError:
            pass

    def receive(self) -> Message:
        """Return the next message of the other side. Raises EOFError at its end, or NoMessage."""
        while (message := self.take()) is None:
            self.read()
        return message

    def read(self) -> None:
        """Read some bytes. Raises EOFError when the other side has ended."""
        data = os.read(self.inbound, _CHUNK)
        if not data:
            raise EOFError
        self._buffer += data

    def take(self) -> Message | None:
        """Return the next message that has been read completely, or None. Raises NoMessage."""
        buffer = self._buffer
        if len(buffer) < _HEAD_SIZE:
            if not _MARK.startswith(buffer[: len(_MARK)]):
                raise _no_message(buffer)
            return None
        mark, length, checksum = _HEAD.unpack_from(buffer)
        if mark != _MARK:
            raise _no_message(buffer)
        if length > _LARGEST:
            raise NoMessage(f"a message of {length} bytes; allowed are {_LARGEST}")
        end = _HEAD_SIZE + length
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]  # a message that cannot be read is not tried again
        body = memoryview(buffer)[_HEAD_SIZE:end]
        if zlib.crc32(body) != checksum:
            raise NoMessage("a message with other bytes in between")
        return self._load(body)

    def close(self) -> None:
        """Close both pipes; the other side then reads the end."""
        for end in (self.inbound, self.outbound):
            if end != -1:
                os.close(end)
        self.inbound = self.outbound = -1


def _no_message(found: bytearray) -> NoMessage:
    return NoMessage(f"{len(found)} bytes that are no message")


def _to_child(message: Message) -> bytes:
    return pickle.dumps((_NUMBERS[type(message)], *message), pickle.HIGHEST_PROTOCOL)


def _from_parent(body: memoryview) -> Message:
    number, *values = pickle.loads(body)
    message: Message = _KINDS[number]._make(values)
    return message


def _to_parent(message: Message) -> bytes:
    values: list[Any] = [_NUMBERS[type(message)], *message]
    pickled = b""
    if type(message) is RunEnded and message.pickled is not None:
        values[_PICKLED], pickled = True, message.pickled
    text = _write_json(values).encode()
    return _LENGTH.pack(len(text)) + text + pickled


def _from_child(body: memoryview) -> Message:
    try:
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH_SIZE + length
        text = str(body[_LENGTH_SIZE:end], "ascii")
        (number, *values), read = _read_json(text)
        if read != len(text):
            raise ValueError("its JSON goes on after its end")
        kind = _KINDS[number]
        if kind is RunEnded and values[_PICKLED - 1]:
            values[_PICKLED - 1] = bytes(body[end:])
        if (types := tuple(map(type, values))) not in _SHAPES[number]:
            names = ", ".join(each.__name__ for each in types)
            raise TypeError(f"the fields of {kind.__name__} are of the types {names}")
        message: Message = kind._make(values)
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise NoMessage(f"a message that cannot be read: {error}") from error
    return message
