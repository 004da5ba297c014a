"""Messages between a process and its child, through two pipes."""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
import termios

from flask_background.concurrency import native
from flask_background.executors.processes.messages import (
    Call,
    CancelledSelf,
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
    CancelledSelf,
    RunEnded,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16


class Pipes:
    """One end of two pipes.

    Any thread may send, and one receives; if it is non-blocking, one thread does both.
    """

    def __init__(self, inbound: int, outbound: int, blocking: bool = True) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self._lock = native.new_lock()
        self._buffer = bytearray()
        self._unsent: list[memoryview] = []
        os.set_blocking(inbound, blocking)
        os.set_blocking(outbound, blocking)

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

    def send(self, message: Message) -> None:
        """Send a message to the other side. Raises OSError if that side has ended.

        On a non-blocking end, bytes that find no room are left for ``send_more``.
        """
        body = pickle.dumps((_NUMBERS[type(message)], *message), pickle.HIGHEST_PROTOCOL)
        with self._lock:
            # A small message is written at once; a large one is not copied for that.
            parts = (
                [_LENGTH.pack(len(body)), body] if len(body) > _CHUNK else [_LENGTH.pack(len(body)) + body]
            )
            self._unsent += map(memoryview, parts)
            self.send_more()

    def send_more(self) -> None:
        """Write the rest of a message, as far as possible."""
        unsent = self._unsent
        try:
            while unsent:
                unsent[0] = unsent[0][os.write(self.outbound, unsent[0]) :]
                if not unsent[0]:
                    del unsent[0]
        except BlockingIOError:
            pass

    def receive(self) -> Message:
        """Return the next message of the other side. Raises EOFError when that side has ended."""
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
        """Return the next message that has been read completely, or None."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return None
        try:
            with memoryview(buffer) as view, view[_LENGTH.size : end] as body:
                number, *values = pickle.loads(body)
        finally:
            del buffer[:end]  # a message that cannot be unpickled is not tried again
        message: Message = _KINDS[number]._make(values)
        return message

    def close(self) -> None:
        """Close both pipes; the other side then reads the end."""
        for end in (self.inbound, self.outbound):
            if end != -1:
                os.close(end)
        self.inbound = self.outbound = -1
